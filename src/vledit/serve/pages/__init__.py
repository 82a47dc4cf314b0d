"""The pages: ask and edit beside each other, the codebook, its map, the history.  No build step; works without a mouse."""
