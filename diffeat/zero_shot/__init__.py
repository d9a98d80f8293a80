"""What needs the network and no training: heat maps of words, masks by words, parts of pictures."""
