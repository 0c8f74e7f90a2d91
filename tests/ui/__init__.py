"""The two UIs that people use, walked through in a real browser against a real `quarterdeck up`."""
