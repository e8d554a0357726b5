"""What TensorBoard and the writer agree upon, and (with a later release) the tab. Never imports torch."""
