"""What every page of ours is made of: markup.py escapes, style.py dresses; nothing is fetched."""
