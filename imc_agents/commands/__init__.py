"""The commands of ``imc``: one module a group, heavy imports inside the functions."""
