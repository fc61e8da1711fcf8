"""Labels as pictures: colours, text, overlay."""
