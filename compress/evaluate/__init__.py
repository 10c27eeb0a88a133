"""How well a voice or a bundle speaks: words, spectra, speakers, runaways."""
