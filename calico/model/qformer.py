"""The Q-Former with queries only, as InstructBLIP's without its instruction text (paper, section 4.1)."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import InstructBlipQFormerModel


class QFormer(nn.Module):
    """transformers' `InstructBlipQFormerModel`, its unused text branch left out. Holds the learned queries."""

    def __init__(self, model: InstructBlipQFormerModel, queries: nn.Parameter) -> None:
        super().__init__()
        drop_text_branch(model)
        self.model = model
        self.queries = queries  # num_queries x D_q

    def forward(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """queries: N x Q x D_q; image_tokens: N x T x D_g, own image's. Returns N x Q x D_q, in its own dtype."""
        dtype = self.queries.dtype
        embedded = self.model.embeddings(query_embeds=queries.to(dtype))
        encoded = self.model.encoder(
            embedded.to(dtype), encoder_hidden_states=image_tokens.to(dtype), query_length=queries.shape[1]
        )
        return encoded.last_hidden_state


def drop_text_branch(model: InstructBlipQFormerModel) -> None:
    """Word and position embeddings and the text feed-forward never run with queries only (80 M of 186 M weights)."""
    model.embeddings.word_embeddings = nn.Identity()
    model.embeddings.position_embeddings = nn.Identity()
    for layer in model.encoder.layer:
        layer.intermediate = nn.Identity()
        layer.output = nn.Identity()
