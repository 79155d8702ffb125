"""What packed data holds, and what is wrong with it, as people read it: in a terminal and as a page."""
