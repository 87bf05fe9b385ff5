"""A `Shot` as a picture and an exact map of ids, with Blender's `bpy` (4.2): Cycles on the CPU.

Only this file and `materials.py` know Blender.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import bpy
import numpy as np
from mathutils import Matrix

from rendering.layout import SENSOR_MM, Placed, Shot
from rendering.masks import Region
from rendering.materials import id_material, material_of, pattern_material
from rendering.model import Part

FAR = 14.0  # half a side of the floor
SMOOTH_BELOW = np.deg2rad(35)  # between faces: sharper edges stay sharp


class Rendered(NamedTuple):
    """light: HxWx3 float, linear. ids: HxW float, each region's number. regions: what the numbers mean."""

    light: np.ndarray
    ids: np.ndarray
    regions: dict[int, Region]


def environments() -> list[Path]:
    """The CC0 surroundings that lie in Blender's own package; night is left out."""
    folder = Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world"
    return sorted(path for path in folder.glob("*.exr") if path.stem != "night")


def render(shot: Shot, surroundings: Sequence[Path], size: int, samples: int, threads: int) -> Rendered:
    """size: pixels a side."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    _engine(scene, size, samples, threads)
    rng = np.random.default_rng(shot.seed)
    regions: dict[int, Region] = {}
    for number, thing in enumerate(shot.things):
        for part in thing.model.parts:
            regions[len(regions) + 1] = Region(number, part.name)
            _add_part(part, thing, len(regions), rng)
    _add_plane("floor", Matrix.Identity(4), pattern_material("floor", *shot.floor))
    if shot.wall_at is not None:
        upright = Matrix.Translation((0, shot.wall_at, 0)) @ Matrix.Rotation(np.pi / 2, 4, "X")
        _add_plane("wall", upright, pattern_material("wall", *shot.wall))
    _add_camera(scene, shot)
    background = _add_world(scene, surroundings[shot.environment % len(surroundings)], shot.light[0])
    sun = _add_sun(scene, shot.light)
    with tempfile.TemporaryDirectory() as folder:
        light = _picture(scene, Path(folder) / "light.exr")
        _shine_ids(scene, background, sun)
        ids = _picture(scene, Path(folder) / "ids.exr")[..., 0]
    return Rendered(light, ids, regions)


def _engine(scene: Any, size: int, samples: int, threads: int) -> None:
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = samples
    scene.cycles.use_denoising = True
    scene.cycles.denoiser = "OPENIMAGEDENOISE"
    scene.cycles.max_bounces = 6
    scene.cycles.caustics_reflective = scene.cycles.caustics_refractive = False
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.resolution_percentage = 100
    scene.render.threads_mode, scene.render.threads = "FIXED", threads
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.color_mode = "RGB"
    scene.render.image_settings.color_depth = "32"


def _add_part(part: Part, thing: Placed, number: int, rng: np.random.Generator) -> None:
    mesh = bpy.data.meshes.new(f"part {number}")
    mesh.from_pydata(part.mesh.vertices.tolist(), [], [list(face) for face in part.mesh.faces])
    if part.mesh.uvs:
        layer = mesh.uv_layers.new()
        layer.data.foreach_set("uv", np.concatenate(part.mesh.uvs).astype(np.float32).ravel())
    mesh.validate()
    mesh.polygons.foreach_set("use_smooth", np.ones(len(mesh.polygons), bool))
    mesh.set_sharp_from_angle(angle=float(SMOOTH_BELOW))
    mesh.materials.append(material_of(part.finish, rng))
    found = bpy.data.objects.new(f"part {number}", mesh)
    found.pass_index = number
    turn = Matrix.Rotation(np.deg2rad(thing.yaw), 4, "Z")
    found.matrix_world = Matrix.Translation(thing.at) @ turn @ Matrix.Scale(thing.size, 4)
    if part.bevel > 0:
        bevel = found.modifiers.new("edges", "BEVEL")
        bevel.width, bevel.segments, bevel.limit_method = part.bevel, 2, "ANGLE"
    bpy.context.scene.collection.objects.link(found)


def _add_plane(name: str, matrix: Matrix, material: Any) -> None:
    mesh = bpy.data.meshes.new(name)
    corners = [(-FAR, -FAR, 0), (FAR, -FAR, 0), (FAR, FAR, 0), (-FAR, FAR, 0)]
    mesh.from_pydata(corners, [], [(0, 1, 2, 3)])
    mesh.materials.append(material)
    plane = bpy.data.objects.new(name, mesh)
    plane.matrix_world = matrix
    bpy.context.scene.collection.objects.link(plane)


def _add_camera(scene: Any, shot: Shot) -> None:
    camera = bpy.data.cameras.new("camera")
    camera.lens, camera.sensor_width, camera.sensor_fit = shot.camera.focal, SENSOR_MM, "HORIZONTAL"
    camera.clip_start = 0.005
    camera.dof.use_dof = True
    camera.dof.focus_distance = shot.camera.distance
    camera.dof.aperture_fstop = shot.camera.f_number * 2  # things are a metre long here, whatever they are
    found = bpy.data.objects.new("camera", camera)
    found.matrix_world = Matrix(shot.camera.matrix.tolist())
    scene.collection.objects.link(found)
    scene.camera = found


def _add_world(scene: Any, surroundings: Path, turn: float) -> Any:
    """The background's node."""
    world = bpy.data.worlds.new("world")
    world.use_nodes = True
    world.cycles.sampling_method = "MANUAL"
    world.cycles.sample_map_resolution = 256  # half of the cost
    nodes, links = world.node_tree.nodes, world.node_tree.links
    nodes.clear()
    place, mapping = nodes.new("ShaderNodeTexCoord"), nodes.new("ShaderNodeMapping")
    picture, background = nodes.new("ShaderNodeTexEnvironment"), nodes.new("ShaderNodeBackground")
    out = nodes.new("ShaderNodeOutputWorld")
    picture.image = bpy.data.images.load(str(surroundings))
    mapping.inputs["Rotation"].default_value[2] = np.deg2rad(turn)
    links.new(place.outputs["Generated"], mapping.inputs["Vector"])
    links.new(mapping.outputs["Vector"], picture.inputs["Vector"])
    links.new(picture.outputs["Color"], background.inputs["Color"])
    links.new(background.outputs["Background"], out.inputs["Surface"])
    scene.world = world
    return background


def _add_sun(scene: Any, light: tuple[float, float]) -> Any:
    turn, strength = light
    lamp = bpy.data.lights.new("sun", "SUN")
    lamp.energy, lamp.angle = strength, 0.03
    found = bpy.data.objects.new("sun", lamp)
    found.rotation_euler = (np.deg2rad(25 + turn % 35), 0.0, np.deg2rad(turn * 3))
    scene.collection.objects.link(found)
    return found


def _shine_ids(scene: Any, background: Any, sun: Any) -> None:
    """From here everything shines with its own number and nothing else does: one sample in the middle of each pixel."""
    scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.max_bounces = 1, False, 0
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BOX", 0.01
    scene.camera.data.dof.use_dof = False
    for link in list(background.inputs["Color"].links):
        scene.world.node_tree.links.remove(link)
    background.inputs["Color"].default_value = (0, 0, 0, 1)
    background.inputs["Strength"].default_value = 0.0
    bpy.data.objects.remove(sun)
    scene.view_layers[0].material_override = id_material()


@contextmanager
def _quiet() -> Iterator[None]:
    """Blender writes lines for each picture to the process's own output, past Python's."""
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _picture(scene: Any, path: Path) -> np.ndarray:
    """HxWx3 float, as it lies in the file: linear."""
    scene.render.filepath = str(path)
    with _quiet():
        bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(path))
    image.colorspace_settings.name = "Non-Color"
    width, height = image.size
    values = np.empty(width * height * 4, np.float32)
    image.pixels.foreach_get(values)
    bpy.data.images.remove(image)
    return values.reshape(height, width, 4)[::-1, :, :3].copy()
