"""The words of training: how each thing is asked for, frames, remarks, lists of words."""
