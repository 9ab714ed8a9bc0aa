"""The Slicer side of ScoreFusion.

`logic` takes nodes and knows no widget; `widgets` holds state and signals and decides nothing; the engine
(`scorefusion`) computes in a process of its own. Only `logic` and `widgets` may import slicer, qt and vtk; the engine
never does. Packages that Slicer does not bring are imported by the worker process alone.
"""
