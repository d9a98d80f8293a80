"""What is known of every pixel of pictures: masks of classes, depth; by picture id, with groups."""
