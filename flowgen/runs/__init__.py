"""From a config to its parts (`experiment`), the folder of a run (`run`), a trained generator and what is asked of it (`generator`)."""
