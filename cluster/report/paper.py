"""The published results on XS-Video's full data (test split), as printed: for reading beside a run's own.

Source: "Short-video Propagation Influence Rating: A New Real-world Dataset and A New Large Graph Model".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of the paper; figures keep the digits that were printed."""

    name: str
    reads: str
    acc: str
    mse: str
    mae: str


NETGPT = Published("NetGPT", "graph, text", "0.6777", "0.7169", "0.5457")
PUBLISHED = (
    Published("GCN", "graph", "0.4474", "1.0623", "0.7599"),
    Published("HAN", "graph", "0.2619", "2.6666", "1.2724"),
    Published("HetSANN", "graph", "0.5078", "0.8917", "0.6803"),
    Published("RGCN", "graph", "0.6313", "0.7801", "0.5844"),
    Published("Mistral-v0.3, LoRA", "text", "0.539", "2.10", "0.81"),
    Published("InternLM2.5, LoRA", "text", "0.527", "2.11", "0.81"),
    Published("Llama-3.1, LoRA", "text", "0.529", "2.12", "0.81"),
    Published("Qwen2.5, LoRA", "text", "0.547", "2.08", "0.77"),
    Published("Llava-Next-Video, LoRA", "text, video", "0.569", "1.85", "0.73"),
    Published("Qwen2-VL, LoRA", "text, video", "0.588", "1.68", "0.66"),
    NETGPT,
    Published("V: NetGPT, video features zero", "graph, text", "0.6564", "0.7415", "0.5669"),
    Published("VV: without video–video relations", "graph, text", "0.5889", "0.8935", "0.6386"),
    Published("IV: without dates and counters", "graph, text", "0.2805", "2.2839", "1.1688"),
    Published("CV: without comments", "graph, text", "0.6464", "0.8249", "0.5868"),
    Published("SLF: without stage 2", "graph, text", "0.6552", "0.7366", "0.5605"),
    Published("2B: Qwen2-VL-2B", "graph, text", "0.6695", "0.7307", "0.5563"),
)
