"""Finishes as Blender's materials: one shader a kind, its look drawn at random within what the kind can be."""

from __future__ import annotations

from typing import Any, NamedTuple

import bpy
import numpy as np

from rendering.model import Finish


class Look(NamedTuple):
    """Ranges of a kind. roughness: of the surface. metallic, transmission: shares. bump: how uneven."""

    roughness: tuple[float, float]
    metallic: float = 0.0
    transmission: float = 0.0
    bump: float = 0.0
    coat: float = 0.0


LOOKS = {
    "wood": Look((0.35, 0.7), bump=0.08),
    "metal": Look((0.12, 0.45), metallic=1.0, bump=0.01),
    "paint": Look((0.25, 0.6), bump=0.01),
    "plastic": Look((0.2, 0.5)),
    "ceramic": Look((0.05, 0.2), coat=0.5),
    "fabric": Look((0.85, 1.0), bump=0.25),
    "rubber": Look((0.7, 0.9), bump=0.05),
    "glass": Look((0.0, 0.05), transmission=1.0),
    "shade": Look((0.9, 1.0), transmission=0.35, bump=0.05),
    "floor": Look((0.35, 0.95), bump=0.05),
}
PLAIN = LOOKS["paint"]


def material_of(finish: Finish, rng: np.random.Generator) -> Any:
    material, nodes, shader = _new(finish.kind)
    if finish.kind == "light":
        shader.inputs["Emission Color"].default_value = (*finish.rgb, 1)
        shader.inputs["Emission Strength"].default_value = float(rng.choice([0.0, 4.0]))
        return material
    look = LOOKS.get(finish.kind, PLAIN)
    shader.inputs["Base Color"].default_value = (*finish.rgb, 1)
    shader.inputs["Roughness"].default_value = float(rng.uniform(*look.roughness))
    shader.inputs["Metallic"].default_value = look.metallic
    shader.inputs["Transmission Weight"].default_value = look.transmission
    shader.inputs["Coat Weight"].default_value = look.coat
    links = material.node_tree.links
    if finish.texture is not None:
        picture = nodes.new("ShaderNodeTexImage")
        picture.image = bpy.data.images.load(str(finish.texture), check_existing=True)
        links.new(picture.outputs["Color"], shader.inputs["Base Color"])
    elif finish.kind in ("wood", "fabric", "metal", "paint"):
        stretch = (1.5, 1.5, 22.0) if finish.kind == "wood" else (6.0, 6.0, 6.0)
        spread = {"wood": 0.55, "fabric": 0.25, "metal": 0.1, "paint": 0.08}[finish.kind]
        _mottle(material, shader, finish.rgb, stretch, spread, rng)
    if look.bump:
        _bump(material, shader, look.bump, 160.0 if finish.kind == "fabric" else 40.0)
    return material


def pattern_material(name: str, pattern: str, first: Finish, second: Finish) -> Any:
    """Of a floor or a wall."""
    material, nodes, shader = _new(name)
    links = material.node_tree.links
    place, mapping = nodes.new("ShaderNodeTexCoord"), nodes.new("ShaderNodeMapping")
    links.new(place.outputs["Object"], mapping.inputs["Vector"])
    mapping.inputs["Rotation"].default_value[2] = first.rgb[0] * 20
    shader.inputs["Roughness"].default_value = 0.25 + 0.6 * second.rgb[1]
    one, two = (*first.rgb, 1), (*second.rgb, 1)
    if pattern in ("planks", "tiles"):
        bricks = nodes.new("ShaderNodeTexBrick")
        bricks.inputs["Color1"].default_value = one
        bricks.inputs["Color2"].default_value = tuple(0.8 * a + 0.2 * b for a, b in zip(one, two, strict=True))
        bricks.inputs["Mortar"].default_value = tuple(0.35 * value for value in one[:3]) + (1,)
        bricks.inputs["Scale"].default_value = 2.0
        bricks.inputs["Mortar Size"].default_value = 0.006 if pattern == "planks" else 0.012
        bricks.inputs["Brick Width"].default_value = 2.6 if pattern == "planks" else 0.6
        bricks.inputs["Row Height"].default_value = 0.28 if pattern == "planks" else 0.6
        bricks.offset = 0.37 if pattern == "planks" else 0.0
        links.new(mapping.outputs["Vector"], bricks.inputs["Vector"])
        links.new(bricks.outputs["Color"], shader.inputs["Base Color"])
        return material
    if pattern == "checker":
        checks = nodes.new("ShaderNodeTexChecker")
        checks.inputs["Scale"].default_value = 2.5
        checks.inputs["Color1"].default_value, checks.inputs["Color2"].default_value = one, two
        links.new(mapping.outputs["Vector"], checks.inputs["Vector"])
        links.new(checks.outputs["Color"], shader.inputs["Base Color"])
        return material
    scale, mix = {"plain": (1.5, 0.1), "carpet": (60.0, 0.35), "concrete": (3.0, 0.4)}[pattern]
    noise, ramp = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeMix")
    noise.inputs["Scale"].default_value, noise.inputs["Detail"].default_value = scale, 6.0
    ramp.data_type = "RGBA"
    colours = [socket for socket in ramp.inputs if socket.type == "RGBA"]
    colours[0].default_value = one
    colours[1].default_value = tuple((1 - mix) * a + mix * b for a, b in zip(one, two, strict=True))
    links.new(mapping.outputs["Vector"], noise.inputs["Vector"])
    links.new(noise.outputs["Fac"], ramp.inputs[0])
    links.new(next(socket for socket in ramp.outputs if socket.type == "RGBA"), shader.inputs["Base Color"])
    if pattern == "carpet":
        _bump(material, shader, 0.4, 90.0)
    return material


def id_material() -> Any:
    """Shines with the number of the object that it is on."""
    material = bpy.data.materials.new("id")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    number, shine, out = (
        nodes.new(kind) for kind in ("ShaderNodeObjectInfo", "ShaderNodeEmission", "ShaderNodeOutputMaterial")
    )
    shine.inputs["Color"].default_value = (1, 1, 1, 1)
    links.new(number.outputs["Object Index"], shine.inputs["Strength"])
    links.new(shine.outputs["Emission"], out.inputs["Surface"])
    return material


def _new(name: str) -> tuple[Any, Any, Any]:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes = material.node_tree.nodes
    return material, nodes, next(node for node in nodes if node.type == "BSDF_PRINCIPLED")


def _mottle(
    material: Any, shader: Any, rgb: tuple[float, float, float], stretch: tuple[float, ...], spread: float, rng: Any
) -> None:
    """The colour wavers by `spread` of itself: veins of wood, wear of metal."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    place, mapping, noise = (
        nodes.new(kind) for kind in ("ShaderNodeTexCoord", "ShaderNodeMapping", "ShaderNodeTexNoise")
    )
    order = rng.permutation(3)
    mapping.inputs["Scale"].default_value = [stretch[k] for k in order]
    mapping.inputs["Location"].default_value = rng.uniform(-5, 5, 3).tolist()
    noise.inputs["Detail"].default_value = 5.0
    ramp = nodes.new("ShaderNodeValToRGB")
    for element, gain in zip(ramp.color_ramp.elements, (1 - spread, 1 + spread * 0.6), strict=True):
        element.color = (*(min(1.0, value * gain) for value in rgb), 1)
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.35, 0.65
    links.new(place.outputs["Object"], mapping.inputs["Vector"])
    links.new(mapping.outputs["Vector"], noise.inputs["Vector"])
    links.new(noise.outputs["Fac"], ramp.inputs["Fac"])
    links.new(ramp.outputs["Color"], shader.inputs["Base Color"])


def _bump(material: Any, shader: Any, strength: float, scale: float) -> None:
    nodes, links = material.node_tree.nodes, material.node_tree.links
    noise, bump = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeBump")
    noise.inputs["Scale"].default_value = scale
    bump.inputs["Strength"].default_value, bump.inputs["Distance"].default_value = strength, 0.01
    links.new(noise.outputs["Fac"], bump.inputs["Height"])
    links.new(bump.outputs["Normal"], shader.inputs["Normal"])
