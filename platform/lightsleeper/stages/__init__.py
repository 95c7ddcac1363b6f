"""The stages of a run, one file each; `experiment.run` puts them in order."""
