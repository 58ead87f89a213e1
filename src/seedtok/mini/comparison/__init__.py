"""The paper's questions, each with rows on equal terms and several seeds: `seedtok reproduce mini --compare`."""
