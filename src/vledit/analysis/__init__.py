"""Where an answer comes from: token attribution, masking, and how far an edit changes predictions at picture and text tokens."""
