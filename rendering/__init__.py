"""Photo-like pictures of objects with exact part masks, made with Blender's `bpy`: a tool, no part of the product."""
