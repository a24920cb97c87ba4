"""Systems that recognise and find what is seen."""
