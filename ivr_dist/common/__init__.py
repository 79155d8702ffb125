"""Small parts that packages of every level share."""
