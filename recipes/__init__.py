"""Recipes: YAML files, one per everyday task or paper setting."""
