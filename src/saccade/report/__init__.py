"""Reports: the HTML page of a run or of a comparison of runs."""
