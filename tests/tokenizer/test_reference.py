"""The published network at a reduced size: its weights in our modules give its numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedtok.tokenizer.causal_qformer import QFormer, QFormerConfig
from seedtok.tokenizer.code_decoder import CodeDecoder, CodeDecoderConfig
from seedtok.tokenizer.codebook import Codebook, CodebookConfig
from seedtok.tokenizer.reverse_qformer import ReverseQFormer, ReverseQFormerConfig
from seedtok.tokenizer.vision import VisionConfig, VisionTransformer
from seedtok.training.losses import contrastive_loss, cosine_loss


def assert_close(ours: Tensor, theirs: Tensor, name: str = "", tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest magnitude of the tensor."""
    assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
    error = (ours.detach() - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)
    assert error <= tolerance, f"{name}: {error:.1e} relative"


# Published names -> ours. Each helper pops what it uses, so what is left over shows. The maps only rename and
# concatenate, so they serve for gradients too.


def take(theirs: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {f"{new}.{kind}": theirs.pop(f"{old}.{kind}") for kind in ("weight", "bias")}


def take_fused(theirs: dict[str, Tensor], old: str, names: list[str], new: str) -> dict[str, Tensor]:
    return {f"{new}.{kind}": torch.cat([theirs.pop(f"{old}.{n}.{kind}") for n in names]) for kind in ("weight", "bias")}


def take_blocks(theirs: dict[str, Tensor], name: str, positions: str, depth: int) -> dict[str, Tensor]:
    ours = {"positions": theirs.pop(positions)}
    for i in range(depth):
        old, new = f"{name}.{i}", f"blocks.{i}"
        ours |= take(theirs, f"{old}.norm1", f"{new}.attention_norm")
        if f"{old}.attn.q_bias" in theirs:
            q, v = theirs.pop(f"{old}.attn.q_bias"), theirs.pop(f"{old}.attn.v_bias")
            theirs[f"{old}.attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
        ours |= take(theirs, f"{old}.attn.qkv", f"{new}.attention.qkv")
        ours |= take(theirs, f"{old}.attn.proj", f"{new}.attention.out")
        ours |= take(theirs, f"{old}.norm2", f"{new}.mlp_norm")
        ours |= take(theirs, f"{old}.mlp.fc1", f"{new}.mlp.up")
        ours |= take(theirs, f"{old}.mlp.fc2", f"{new}.mlp.down")
    return ours


def take_vit(theirs: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    ours = take_blocks(theirs, "visual_encoder.blocks", "visual_encoder.pos_embed", depth)
    ours["class_token"] = theirs.pop("visual_encoder.cls_token")
    ours |= take(theirs, "visual_encoder.patch_embed.proj", "patch_embedding")
    ours["patch_embedding.weight"] = ours["patch_embedding.weight"].flatten(1)
    return ours


def take_bert(theirs: dict[str, Tensor], name: str, tokens: str, layers: int, text: bool = False) -> dict[str, Tensor]:
    ours = {"query_tokens": theirs.pop(tokens)}
    ours |= take(theirs, f"{name}.bert.embeddings.LayerNorm", "embedding_norm")
    if text:
        for kind in ("word_embeddings", "position_embeddings"):
            ours[f"{kind}.weight"] = theirs.pop(f"{name}.bert.embeddings.{kind}.weight")
    for i in range(layers):
        old, new = f"{name}.bert.encoder.layer.{i}", f"layers.{i}"
        ours |= take_fused(theirs, f"{old}.attention.self", ["query", "key", "value"], f"{new}.attention.qkv")
        ours |= take(theirs, f"{old}.attention.output.dense", f"{new}.attention.out")
        ours |= take(theirs, f"{old}.attention.output.LayerNorm", f"{new}.attention_norm")
        if i % 2 == 0:
            ours |= take(theirs, f"{old}.crossattention.self.query", f"{new}.cross.query")
            ours |= take_fused(theirs, f"{old}.crossattention.self", ["key", "value"], f"{new}.cross.kv")
            ours |= take(theirs, f"{old}.crossattention.output.dense", f"{new}.cross.out")
            ours |= take(theirs, f"{old}.crossattention.output.LayerNorm", f"{new}.cross_norm")
        for kind, suffix in [("query", "_query")] + [("text", "")] * text:
            ours |= take(theirs, f"{old}.intermediate{suffix}.dense", f"{new}.{kind}_mlp.up")
            ours |= take(theirs, f"{old}.output{suffix}.dense", f"{new}.{kind}_mlp.down")
            ours |= take(theirs, f"{old}.output{suffix}.LayerNorm", f"{new}.{kind}_mlp_norm")
    return ours


def take_norm(theirs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {kind: theirs.pop(f"{name}.{kind}") for kind in ("weight", "bias")}


def take_head(theirs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return take(theirs, f"{name}.0", "0") | take(theirs, f"{name}.2", "2")


def load(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(state, strict=True)
    return module.eval()


def assert_used_up(theirs: dict[str, Tensor], unused: tuple[str, ...]) -> None:
    """Every key was taken, or starts with one of the knowingly unused."""
    assert not [key for key in theirs if not key.startswith(unused)]


def assert_grads(module: nn.Module, theirs: dict[str, Tensor]) -> None:
    ours = {name: p.grad for name, p in module.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        if ours[name] is None:
            assert not grad.any(), f"{name}: no gradient"
        else:
            every = len(ours[name]) // len(grad)  # of large gradients the reference may keep every n-th row
            assert_close(ours[name][::every], grad, name)


# Our modules at the reference's sizes


def build_vit(cfg: dict) -> VisionTransformer:
    width = cfg["vit_width"]
    return VisionTransformer(
        VisionConfig(
            image_size=cfg["img_size"],
            patch_size=cfg["patch"],
            width=width,
            layers=cfg["vit_depth"],
            heads=cfg["vit_heads"],
            mlp_width=int(width * cfg["vit_mlp_ratio"]),
        )
    )


def build_qformer(cfg: dict, text: bool) -> QFormer:
    return QFormer(
        QFormerConfig(
            queries=cfg["num_query"],
            width=cfg["hidden"],
            layers=cfg["bert_layers"],
            heads=cfg["bert_heads"],
            mlp_width=cfg["bert_ffn"],
            encoder_width=cfg["vit_width"],
            vocab_size=cfg["bert_vocab"] if text else None,
            max_text_positions=cfg["bert_max_pos"],
        )
    )


def build_reverse(cfg: dict, output_width: int) -> ReverseQFormer:
    return ReverseQFormer(
        ReverseQFormerConfig(
            queries=cfg["reverse_tokens_text"],
            width=cfg["hidden"],
            layers=4,
            heads=cfg["bert_heads"],
            mlp_width=cfg["bert_ffn"],
            encoder_width=cfg["hidden"],
            output_width=output_width,
        )
    )


def build_decoder(cfg: dict) -> CodeDecoder:
    return CodeDecoder(
        CodeDecoderConfig(
            width=cfg["hidden"], layers=cfg["block_depth"], heads=cfg["block_heads"], tokens=cfg["num_query"]
        )
    )


def build_codebook(vectors: Tensor) -> Codebook:
    return Codebook(CodebookConfig(*vectors.shape))


def build_heads(cfg: dict) -> tuple[nn.Module, nn.Module]:
    width, dim = cfg["hidden"], cfg["code_dim"]
    encode = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, dim))
    return encode, nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, width))


@torch.no_grad()
def test_v1_end_to_end(reference):
    cfg, state = reference.cfg, reference.part("v1/state_dict/")
    vit = load(build_vit(cfg), take_vit(state, cfg["vit_depth"]))
    ln_vision = load(nn.LayerNorm(cfg["vit_width"]), take_norm(state, "ln_vision"))
    qformer = load(build_qformer(cfg, False), take_bert(state, "Qformer", "query_tokens", cfg["bert_layers"]))
    encode, decode = build_heads(cfg)
    load(encode, take_head(state, "encode_task_layer"))
    load(decode, take_head(state, "decode_task_layer"))
    vectors = state.pop("quantize.embedding.weight")
    codebook = load(build_codebook(vectors), {"weight": vectors})
    text = load(build_decoder(cfg), take_blocks(state, "blocks_text", "pos_embed_text", cfg["block_depth"]))
    output = take(state, "distill_text_proj", "output")
    reverse = build_reverse(cfg, len(output["output.bias"]))
    load(reverse, take_bert(state, "Reverse_Qformer", "reverse_tokens", 4) | output)
    assert_used_up(state, ("Qformer.bert.embeddings.position_ids", "Reverse_Qformer.bert.embeddings.position_ids"))

    taps = reference.part("v1/taps/")
    patches = vit(reference["image"])
    assert_close(patches, taps.pop("visual_encoder"), "visual_encoder")
    features = ln_vision(patches)
    assert_close(features, taps.pop("ln_vision"), "ln_vision")
    causal = qformer(features)
    assert_close(causal, taps.pop("Qformer.bert"), "Qformer.bert")
    assert_close(causal, reference["v1/causal_emb"], "causal_emb")
    z = encode(causal)
    assert_close(z, taps.pop("encode_task_layer"), "encode_task_layer")
    vectors, codes, loss = codebook(z)
    assert torch.equal(codes, reference["v1/codes"])
    assert torch.equal(codes.flatten(), taps.pop("quantize/2"))
    assert_close(vectors, taps.pop("quantize/0"), "quantize/0")
    assert_close(loss, taps.pop("quantize/1"), "quantize/1")
    assert_close(loss, reference["v1/vq_loss_legacy"], "vq_loss_legacy")
    decoded = decode(codebook.lookup(codes))
    assert_close(decoded, taps.pop("decode_task_layer"), "decode_task_layer")
    blocks = text(decoded)
    assert_close(blocks, taps.pop(f"blocks_text.{cfg['block_depth'] - 1}"), "blocks_text")
    hidden = []
    hook = reverse.output.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    generation = reverse(blocks)
    hook.remove()
    assert_close(hidden[0], taps.pop("Reverse_Qformer.bert"), "Reverse_Qformer.bert")
    assert_close(generation, taps.pop("distill_text_proj"), "distill_text_proj")
    assert_close(generation, reference["v1/gen_emb"], "gen_emb")
    assert not taps

    probe = reference["v1/causal_probe"]
    torch.manual_seed(0)
    qformer.query_tokens[:, 20] += torch.randn(cfg["hidden"])
    change = (qformer(features) - causal).abs().amax(dim=(0, 2))
    assert torch.equal(change > 0, probe > 0)
    assert change[20:].min() > 0


def test_stage1(reference):
    cfg, state = reference.cfg, reference.part("stage1/state_dict/")
    vit = load(build_vit(cfg), take_vit(state, cfg["vit_depth"]))
    bert = ("Qformer", "query_tokens", cfg["bert_layers"], True)
    qformer = load(build_qformer(cfg, True), take_bert(state, *bert))
    projections = {name: nn.Linear(cfg["hidden"], cfg["embed_dim"]) for name in ("vision_proj", "text_proj")} | {
        "ln_vision": nn.LayerNorm(cfg["vit_width"])
    }
    heads = nn.ModuleDict(projections)
    load(heads, {k: v for name in projections for k, v in take(state, name, name).items()})
    temperature = nn.Parameter(state.pop("temp"))
    assert_used_up(state, ("Qformer.bert.embeddings.position_ids", "Qformer.cls."))

    with torch.no_grad():
        patches = vit(reference["image"])
    image = heads["vision_proj"](qformer(heads["ln_vision"](patches)))  # (B, queries, 256)
    assert_close(image, reference["stage1/taps/vision_proj"], "vision_proj")
    assert_close(F.normalize(image, dim=-1), reference["stage1/image_feat"], "image_feat")
    ids, mask = reference["stage1/input_ids"], reference["stage1/attention_mask"]
    text = heads["text_proj"](qformer.encode_text(ids, mask)[:, 0])
    assert_close(text, reference["stage1/taps/text_proj"], "text_proj")
    assert_close(F.normalize(text, dim=-1), reference["stage1/text_feat"], "text_feat")

    last = image[:, -1]
    sims = F.normalize(last, dim=-1) @ F.normalize(text, dim=-1).T
    assert_close(sims, reference["stage1/sim_i2t"], "sim_i2t")
    assert_close(sims.T, reference["stage1/sim_t2i"], "sim_t2i")
    assert_close(temperature, reference["stage1/temp"], "temp")
    # The published code gathers without gradient, even from its own rank: the columns are constants.
    loss = contrastive_loss(last, text, last.detach(), text.detach(), temperature)
    assert_close(loss, reference["stage1/loss"], "loss")

    loss.backward()
    grads = reference.part("stage1/grads/")
    assert_grads(qformer, take_bert(grads, *bert))
    assert_grads(heads, {k: v for name in projections for k, v in take(grads, name, name).items()})
    # One number, in which terms far larger than itself cancel: how it rounds depends on the machine.
    assert_close(temperature.grad, grads.pop("temp"), "temp", tolerance=1e-4)
    assert not grads


def test_stage2_text(reference):
    cfg, state = reference.cfg, reference.part("stage2_text/state_dict/")
    encode, decode = build_heads(cfg)
    modules = {
        "encode": encode,
        "decode": decode,
        "codebook": build_codebook(state["quantize.embedding.weight"]),
        "code_decoder": build_decoder(cfg),
        "text_decoder": build_decoder(cfg),
        "reverse": build_reverse(cfg, cfg["text_dim"]),
    }

    def trained(theirs: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        depth = cfg["block_depth"]
        output = take(theirs, "distill_text_proj", "output")
        return {
            "encode": take_head(theirs, "encode_task_layer"),
            "decode": take_head(theirs, "decode_task_layer"),
            "codebook": {"weight": theirs.pop("quantize.embedding.weight")},
            "code_decoder": take_blocks(theirs, "blocks", "pos_embed", depth),
            "text_decoder": take_blocks(theirs, "blocks_text", "pos_embed_text", depth),
            "reverse": take_bert(theirs, "Reverse_Qformer_text", "reverse_tokens_text", 4) | output,
        }

    for name, weights in trained(state).items():
        load(modules[name], weights)
    frozen = ("visual_encoder.", "ln_vision.", "Qformer.", "query_tokens")  # as in v1, which tests them
    assert_used_up(state, (*frozen, "Reverse_Qformer_text.bert.embeddings.position_ids"))

    taps = reference.part("stage2_text/taps/")
    causal = taps["Qformer.bert"]
    vectors, codes, vq = modules["codebook"](encode(causal))
    assert torch.equal(codes.flatten(), taps["quantize/2"])
    decoded = decode(vectors)
    assert_close(decoded, taps["decode_task_layer"], "decode_task_layer")
    reconstructed = modules["code_decoder"](decoded)
    assert_close(reconstructed, taps[f"blocks.{cfg['block_depth'] - 1}"], "blocks")
    generation = modules["reverse"](modules["text_decoder"](decoded))

    losses = {
        "loss_embed": 5 * vq,
        "loss_recon_s": 2 * cosine_loss(reconstructed, causal),
        "loss_distil_text": 0.5 * F.mse_loss(generation, reference["stage2_text/target"]),
    }
    loss = sum(losses.values())
    for name, value in (losses | {"loss": loss}).items():
        assert_close(value, reference[f"stage2_text/losses/{name}"], name)

    loss.backward()
    grads = reference.part("stage2_text/grads/")
    for name, theirs in trained(grads).items():
        assert_grads(modules[name], theirs)
    assert not grads
