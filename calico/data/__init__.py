"""Groups from annotated images and from loose ones, and which of them to label next."""
