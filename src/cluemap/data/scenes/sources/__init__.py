"""Where the images of a scene lie: products, files, catalogues and cubes, each as granules of layers."""
