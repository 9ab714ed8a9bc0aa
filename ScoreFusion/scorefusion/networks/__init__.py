"""The networks, 2D and 3D by one argument; knows nothing of planes or scans."""
