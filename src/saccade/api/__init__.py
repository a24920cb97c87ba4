"""What `import saccade` offers and the command is a layer over: recipes, runs, data, rewards on pictures, checks."""
