"""Where an answer comes from: token attribution, masking, and how far an edit moves what the model says of picture and text."""
