"""What a program needs of its machine: the way out, folders of any depth, and the end of orphans."""
