"""The part memory: what a team's own parts look like, learnt in seconds from the images that they corrected.

Ours, not the paper's. It stands beside CEM and CAM: CEM and CAM help the language model to name what images share, the
memory knows names that the model was never taught. Frozen feature maps go in, a map for every taught name comes out.

    pyramid   feature maps of an image, whichever encoders a model has
    lessons   pixels of corrected images with their names, balanced
    head      two linear layers for each pixel
    fitting   three heads, each fitted without a third of the groups and measured on it
    memory    what is kept: heads, names, a card; maps of an image
    kept      what was read of images, for the next fit
    evidence  a prediction seen again in the light of the memory
"""
