"""How generated images are judged, with no download: a small fixed classifier instead of Inception.

distances.py   Fréchet distance, improved precision and recall, classifier score, label agreement
judge.py       the fixed scoring classifier and its kept weights (`judges/<data set>/`)
generative.py  the row of figures for a generator, the REAL row always beside it
slices.py      a figure by class
"""
