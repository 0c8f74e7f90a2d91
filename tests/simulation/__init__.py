"""A world in one process: the flows' own functions, our exchange without sockets, and every failure from a seed."""
