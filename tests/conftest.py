"""This file's place puts tests/ on the import path, so that tests in subfolders find `fakes` and its neighbours."""
