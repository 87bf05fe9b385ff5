"""Everything people look at: overlays, name plates, pages."""
