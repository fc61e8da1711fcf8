"""A DeepStream application around the graph `frame`: configuration, constant inputs, and a small C++ library."""
