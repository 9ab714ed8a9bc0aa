"""Hostile inputs: files, options and environments that a person may give by mistake, each with what must come of it.

A run may end in three ways: RIGHT (voxels and place are checked against the truth), CLEAR ERROR (one message that names
the input, the exit code of a user error, nothing left behind) or WARNED (right, and said what is odd). All else is
wrong: a traceback, a crash, a hang, a wrong voxel without a word.

    cd Testing; python -m corpus            # counts, and the worst landmark error in mm
    cd Testing; python -m corpus nrrd       # only cases whose name contains "nrrd", each with its outcome
    pytest Testing/corpus                   # a test for each case

A case is a line: `refused("name", make, "what the message says")` with a function that makes the files in a folder. See
`framework.py` for the words, and any file of cases for examples; a new file of cases is named in `CASE_FILES`.
"""
