"""ScoreFusion: sharper and translated brain MRI by fusing 2D diffusion models in 3D.

The one way in, and the files::

    from scorefusion.imaging.files import write_volume
    from scorefusion.pipeline import translate

    result = translate("t1_5mm.nii.gz", model="brain-sr", thickness=5.0, axis=2)
    write_volume(result.volume, "t1_1mm.nii.gz")

Nothing is imported here: each name lives in one module, and a Slicer that has no torch yet can list models all the
same.
"""
