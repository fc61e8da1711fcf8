"""Configurations of networks: published ones, and those that a preset brings along."""
