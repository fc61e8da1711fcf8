"""Tables, plots, pages and certificates, made from the records of the measurements."""
