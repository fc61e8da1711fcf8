"""Labels drawn over frames: colours, text, overlay."""
