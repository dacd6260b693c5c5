"""The names and shapes of parameters in the authors' checkpoints, from which ours are written back.

A pattern stands for all names with its alternatives in braces. `#` is the index of a stage, `*` that of a block, `@` a
weight and a bias, `%` the five tensors of a batch norm. Patterns may stand for more names than a network has: those
that its filter does not map to one of its tensors are left out. After a blank follows the shape, if it is not ours: a
dot for each axis of ours and the other axes, of length 1, or what `tools/official.py` has a function for. Dots alone
state the number of axes, for filters that depend on it. Buffers that the authors' code computes are not listed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Listing:
    """The names in the checkpoints of one architecture.

    Attributes:
        patterns: patterns of names, see above.
        key: the key that the authors' code reads the weights from; None for the file itself.
        layout: the attribute `layout` of our networks, where the names do not determine the architecture.
    """

    patterns: tuple[str, ...]
    key: str | None = "model"
    layout: str | None = None


_LAYERS = "{norm1,norm2,attn.qkv,attn.proj,mlp.fc1,mlp.fc2}.@"
_ENDS = ("patch_embed.{proj,norm}.@", "{norm,head}.@")
_AGENTS = ("{an,na,ac,ca}_bias ....", "{ah,aw,ha,wa}_bias .....")

# Swin's blocks, also in other families
_SWIN = (
    *_ENDS,
    f"layers.#.blocks.*.{_LAYERS}",
    "layers.#.blocks.*.attn.relative_position_bias_table table",
    "layers.#.downsample.{reduction.weight,norm.@}",
)

# torchvision's ResNet
_RESNET = (
    "{conv1,layer#.*.{conv1,conv2,conv3,downsample.0}}.weight",
    "{bn1,layer#.*.{bn1,bn2,bn3,downsample.1}}.%",
    "fc.@",
)


def _nat(blocks: str) -> tuple[str, ...]:
    return (
        f"{blocks}.{_LAYERS}",
        f"{blocks}.attn.rpb ...",
        f"{blocks}.{{gamma1,gamma2}}",
    )


def _biformer(blocks: str, second: int, *layers: str) -> tuple[str, ...]:
    return (
        f"{blocks.replace('#', '{0,1,2}')}.{{attn.qkv.qkv,attn.wo}}.@",
        f"{blocks.replace('#', '3')}.attn.{{qkv.weight,proj.@}}",
        f"{blocks}.{{norm1,norm2,attn.lepe,mlp.0,mlp.{second}}}.@",
        "norm.%",
        "head.@",
        *layers,
    )


_STL = ("downsample_layers.{0.0,1.1,2.1,3.1}.@", "downsample_layers.{0.1,1.0,2.0,3.0}.%")


def _pointwise(layers: str) -> tuple[str, ...]:
    """Layers that are convolutions there, and linear here."""
    return f"{layers}.weight ..11", f"{layers}.bias"


def _yolo(units: str) -> tuple[str, ...]:
    """Convolutions with batch norms."""
    return f"{units}.conv.weight", f"{units}.bn.%"


def _perceiver(layer: str, share: str = "/2", joined: tuple[str, ...] = ("key", "value")) -> tuple[str, ...]:
    """A layer of transformers' Perceiver, and the projections that are one here."""
    return (
        f"{layer}.{{layernorm,attention.output.dense,mlp.dense1,mlp.dense2}}.@",
        f"{layer}.attention.self.{{layernorm1,layernorm2{'' if 'query' in joined else ',query'}}}.@",
        f"{layer}.attention.self.{{{','.join(joined)}}}.@ {share}",
    )


_DILATED = "k{3,5,7,9}_{1,2,3,4,5,6,7}"
_OVERLOCK, _FOCUS = "blocks{1,2,3,4}.*", "sub_blocks{3,4}.*"

_GFNET = ("pos_embed", "{norm,head}.@")

_MASKED = "Attention{A,B,C}_*"


def _residual(*units: str) -> tuple[str, ...]:
    """The convolutions of residual units, and the norms after them; units with norms before have one less."""
    layers = [f"{unit}.branch1.{{conv1_1x1,conv2_3x3,conv3_1x1}}" for unit in units]
    return *(f"{layer}.weight" for layer in layers), *(f"{layer}.bn.%" for layer in layers)


_CAFFE = (
    "conv1.weight",
    "conv1.bn.%",
    *_residual(
        "{pre_res,post_res_4}_{1,2,3}", _MASKED, f"{_MASKED}.trunk.res{{1,2,3}}", f"{_MASKED}.mask.skip.res{{1,2}}"
    ),
    "{pre_res,post_res_4}_{1,2,3}.branch2.conv1_1x1.weight",
    f"{_MASKED}.mask.linear_{{1,2}}.weight",
    "classifier.@",
)

# by the module of a family; the first listing that has every tensor of a network is taken
LISTINGS: dict[str, tuple[Listing, ...]] = {
    "agent": (
        # Swin, PVT and CSWin
        Listing((*_SWIN, "layers.#.blocks.*.attn.dwc.@", *(f"layers.#.blocks.*.attn.{bias}" for bias in _AGENTS))),
        Listing(
            (
                "patch_embed#.{proj,norm}.@",
                "pos_embed#",
                "block#.*.{norm1,norm2,attn.proj,attn.dwc,mlp.fc1,mlp.fc2}.@",
                "block#.*.attn.q.@ /3",
                "block#.*.attn.kv.@ *2/3",
                *(f"block#.*.attn.{bias}" for bias in _AGENTS),
                "head.@",
            )
        ),
        Listing(
            (
                "stage1_conv_embed.{0,2}.@",
                "merge#.{conv,norm}.@",
                "stage#.*.{norm1,norm2,qkv,proj,mlp.fc1,mlp.fc2,attns.0.get_v,attns.1.get_v}.@",
                *(f"stage#.*.attns.0.{bias}" for bias in _AGENTS),
                "{norm,head}.@",
            )
        ),
    ),
    "agent_deit": (
        Listing(
            (
                "{cls_token,pos_embed}",
                "patch_embed.proj.@",
                f"blocks.*.{_LAYERS}",
                "blocks.*.attn.dwc.@",
                *(f"blocks.*.attn.{bias}" for bias in _AGENTS),
                "{norm,head}.@",
            )
        ),
    ),
    "biformer": (
        Listing(
            _biformer(
                "stages.#.*",
                3,
                "stages.#.*.pos_embed.@",
                "downsample_layers.{0.0,0.3,1.0,2.0,3.0}.@",
                "downsample_layers.{0.1,0.4,1.1,2.1,3.1}.%",
            ),
            layout="biformer",
        ),
        Listing(_biformer("stages.#.blocks.*", 2, *_STL), layout="stl"),
        Listing(
            (
                *_STL,
                "stages.#.blocks.*.{norm1,norm2,attn.lepe}.@",
                *_pointwise("stages.{0,1,2}.blocks.*.attn.{qkv_linear,output_linear}"),
                *_pointwise("stages.3.blocks.*.attn.{qkv,proj}"),
                *_pointwise("stages.#.blocks.*.mlp.{0,2}"),
                "norm.%",
                "head.@",
            ),
            layout="stl_nchw",
        ),
    ),
    "dhvt": (
        Listing(
            (
                "cls_token",
                "patch_embed.proj.{0,2,4,6}.0.weight",
                "patch_embed.proj.{0,2,4,6}.1.%",
                "patch_embed.{pre_affine,post_affine}.{alpha,beta} 1.11",
                f"blocks.*.{_LAYERS.replace('mlp.fc1,mlp.fc2', 'mlp.compress,mlp.excitation')}",
                "blocks.*.{attn.ht_norm,attn.ht_proj,mlp.conv1,mlp.conv2,mlp.conv3}.@",
                "blocks.*.mlp.{bn1,bn2,bn3}.%",
                "blocks.*.attn.pos_embed",
                "{norm,head}.@",
            )
        ),
    ),
    "eca_resnet": (Listing((*_RESNET, "layer#.*.eca.conv.weight"), key="state_dict"),),
    "emca": (
        Listing(
            (
                # with a stem of three convolutions, too
                "{pre.0,pre.0.{0,3,6},stage#.*.{residual.{0,3,6},shortcut.0}}.weight",
                "{pre.1,pre.0.{1,4},stage#.*.{residual.{1,4,7},shortcut.1}}.%",
                "stage#.*.{ECA_excitation_local,ECA_excitation_global_stage,stage_in_fusion,out_fusion}.0.weight",
                "linear.@",
            ),
            key=None,
        ),
    ),
    "fcanet": (Listing((*_RESNET, "layer#.*.att.fc.{0,2}.weight linear"), key=None),),
    "fftnet": (
        Listing(
            (
                "{cls_token,pos_embed}",
                "patch_embed.proj.@",
                "blocks.*.{attention.pre_norm,attention.adaptive_mlp.0,attention.adaptive_mlp.2,norm,mlp.0,mlp.3}.@",
                "blocks.*.attention.{base_filter,base_bias} ...",
                "{norm,head}.@",
            ),
            key=None,
        ),
    ),
    "flowformer": (
        Listing(("pos_embed", "patch_embed.#.proj.@", f"blocks.#.*.{_LAYERS}", "blocks.#.*.gamma", "{norm,head}.@")),
    ),
    "gfnet": (
        Listing(
            (
                *_GFNET,
                "patch_embed.proj.@",
                "blocks.*.{norm1,norm2,mlp.fc1,mlp.fc2}.@",
                "blocks.*.filter.complex_weight spectrum",
            )
        ),
        Listing(
            (
                *_GFNET,
                "patch_embed.#.proj.@",
                "blocks.#.*.{norm1,norm2,mlp.fc1,mlp.fc2}.@",
                "blocks.#.*.filter.complex_weight spectrum",
                "blocks.#.*.gamma",
            )
        ),
    ),
    "litv2": (
        Listing(
            (
                *_ENDS,
                "layers.#.blocks.*.{norm1,norm2,mlp.fc1,mlp.fc2,mlp.dwconv.dwconv}.@",
                "layers.#.blocks.*.attn.{l_q,l_kv,l_proj,h_qkv,h_proj}.@",
                "layers.#.downsample.{dconv,dconv.conv_offset}.@",
                "layers.#.downsample.norm_layer.%",
            )
        ),
    ),
    "moh_vit": (
        Listing(
            (
                "patch_embed#.{proj,norm}.@",
                "block#.*.{norm1,norm2,mlp.fc1,mlp.fc2,mlp.dwconv.dwconv}.@",
                "block#.*.attn.{q,kv,qkv,proj,norm,cpb_fc1,cpb_fc2}.@",
                *_pointwise("block#.*.attn.sr"),
                "block#.*.attn.{wg,wg_0,wg_1}.weight",
                "block#.*.attn.{relative_pos_bias_local,learnable_tokens,learnable_bias}",
                "block#.*.attn.temperature ..1",
                "block#.*.attn.query_embedding .1.",
                "norm#.@",
                "head.@",
            )
        ),
    ),
    "nat": (
        Listing(
            (
                "patch_embed.{proj.0,proj.1,norm}.@",
                *_nat("levels.#.blocks.*"),
                "levels.#.downsample.{reduction.weight,norm.@}",
                "{norm,head}.@",
            ),
            key=None,
        ),
        Listing((*_ENDS, *_nat("layers.#.blocks.*"), "layers.#.downsample.{reduction.weight,norm.@}"), key=None),
    ),
    "nat_isotropic": (Listing((*_ENDS, *_nat("layers.*")), key=None),),
    "ninformer": (
        Listing(
            (
                "{patcher,classifier}.@",
                "model.*.{norm,mgu.proj,mgu.Mixer.token_mix.0,mgu.Mixer.channel_mix.0,ffn.net.0,ffn.net.3}.@",
                "model.*.mgu.Mixer.{token_mix.2,channel_mix.1}.net.{0,3}.@",
            ),
            key=None,
        ),
    ),
    "overlock": (
        Listing(
            (
                "{patch_embed1.0,patch_embed1.3,patch_embed1.6,patch_embed1.9,head.0}.weight",
                "{patch_embed1.1,patch_embed1.4,patch_embed1.7,patch_embed1.10,head.1,aux_head.0}.%",
                "{patch_embed2,patch_embed3,patch_embed4,patch_embedx.x_proj,patch_embedx.h_proj}.0.weight",
                "{patch_embed2,patch_embed3,patch_embed4,patch_embedx.x_proj,patch_embedx.h_proj}.1.%",
                *_pointwise("{high_level_proj,head.4,aux_head.2}"),
                f"{_OVERLOCK}.{{dwconv,proj.0,proj.6}}.@",
                *_pointwise(f"{_OVERLOCK}.proj.{{3.proj.1,3.proj.3,4,8}}"),
                f"{_OVERLOCK}.proj.1.{{lk_origin,dil_conv_{_DILATED}}}.weight",
                f"{_OVERLOCK}.proj.{{1.origin_bn,1.dil_bn_{_DILATED},2}}.%",
                f"{_OVERLOCK}.proj.7.{{gamma,beta}} 1.11",
                f"{_OVERLOCK}.ls.weight .111",
                f"{_OVERLOCK}.ls.bias",
                f"{_FOCUS}.{{dwconv1,dwconv2,norm1,norm2,fusion.0,mlp.2}}.@",
                *_pointwise(f"{_FOCUS}.{{fusion.3,weight_proj,se_layer.proj.1,se_layer.proj.3,proj.1,mlp.0,mlp.4}}"),
                f"{_FOCUS}.{{weight_query.0,weight_key.1,dyconv_proj.0,gate.0}}.weight",
                f"{_FOCUS}.{{fusion.1,weight_query.1,weight_key.2,dyconv_proj.1,gate.1,lepe.1,proj.0}}.%",
                f"{_FOCUS}.lepe.0.{{lk_origin,dil_conv_{_DILATED}}}.weight",
                f"{_FOCUS}.lepe.0.{{origin_bn,dil_bn_{_DILATED}}}.%",
                f"{_FOCUS}.{{fusion.4,mlp.3}}.{{gamma,beta}} 1.11",
                f"{_FOCUS}.{{ls1,ls2,x_scale,h_scale}}.weight .111",
                f"{_FOCUS}.{{ls1,ls2,x_scale,h_scale}}.bias",
                f"{_FOCUS}.{{rpb1,rpb2}}",
            ),
            key="state_dict",
        ),
    ),
    "parcnetv2": (
        Listing(
            (
                "downsample_layers.#.conv.@",
                "downsample_layers.{0.post_norm,{1,2,3}.pre_norm}.weight",
                "stages.#.*.{norm1,norm2,token_mixer.dwconv1.conv_h,token_mixer.dwconv1.conv_w}.weight",
                "stages.#.*.token_mixer.pwconv1.weight convs*2",
                "stages.#.*.token_mixer.pwconv1.bias *2",
                "stages.#.*.token_mixer.dwconv2.weight",
                "stages.#.*.token_mixer.pwconv2.weight ..11",
                "stages.#.*.mlp.fc1.@ *2",
                "stages.#.*.mlp.fc2.weight",
                "stages.#.*.{res_scale1,res_scale2}.scale",
                "{norm,head}.@",
            ),
            key=None,
        ),
    ),
    "perceiver": (
        Listing(
            (
                "perceiver.embeddings.latents",
                "perceiver.input_preprocessor.convnet.conv.weight",
                "perceiver.input_preprocessor.convnet.batchnorm.%",
                "perceiver.input_preprocessor.{convnet_1x1,positions_projection}.@",
                "perceiver.input_preprocessor.position_embeddings.position_embeddings rows",
                *_perceiver("perceiver.encoder.self_attends.{0,1,2,3,4,5,6,7}", "/3", ("query", "key", "value")),
                *_perceiver("perceiver.encoder.cross_attention"),
                *_perceiver("perceiver.decoder.decoder.decoding_cross_attention"),
                "perceiver.decoder.decoder.output_position_encodings.position_embeddings",
                "perceiver.decoder.decoder.final_layer.@",
            ),
            key=None,
        ),
    ),
    "plainmamba": (
        Listing(
            (
                "backbone.pos_embed",
                "backbone.patch_embed.{stem,convs}.{0,3}.weight",
                "backbone.patch_embed.{stem,convs}.{1,4}.%",
                "{backbone.patch_embed.projection,backbone.ln1,head.fc}.@",
                "backbone.layers.*.norm.@",
                "backbone.layers.*.mamba.{A_log,D,direction_Bs}",
                "backbone.layers.*.mamba.{in_proj,conv2d,x_proj,dt_proj,out_proj}.@",
                "backbone.layers.*.dw.{0.weight,1.%}",
            ),
            key="state_dict",
        ),
    ),
    "ravlt": (
        Listing(
            (
                "patch_embed.proj.{0,3,6,9}.@",
                "patch_embed.proj.{1,4,7,10}.%",
                "layers.#.blocks.*.{attn.lepe,ffn.dwconv,pos,norm1.norm,norm2.norm}.@",
                *_pointwise("layers.#.blocks.*.{attn.qkvo,attn.proj,ffn.fc1,ffn.fc2}"),
                "layers.#.blocks.*.{gamma_1,gamma_2} 1.11",
                "layers.#.downsample.reduction.@",
                "layers.#.downsample.norm.%",
                "norm.%",
                "proj.@",
                *_pointwise("head"),
            )
        ),
    ),
    "residual_attention": (
        Listing(
            (
                *_CAFFE,
                "pool1_3x3_s2.bn.%",
                "{pre_res,post_res_4}_{1,2,3}.bn.%",
                f"{_MASKED}{{,.fusion,.trunk.res1,.trunk.res2,.mask.linear_1,.mask.up_sample.interp_1}}.bn.%",
                f"{_MASKED}.mask.{{down_sample.pool1_3x3_s2,down_sample.pool2_3x3_s2,down_sample.pool3_3x3_s2}}.bn.%",
                f"{_MASKED}.mask.{{down_sample.res1_1,down_sample.res2_1,down_sample.res3_1}}.bn.%",
                f"{_MASKED}.mask.{{up_sample1,up_sample2}}.bn.%",
                *_residual(
                    f"{_MASKED}.mask.down_sample.res{{1,2,3}}_{{1,2}}", f"{_MASKED}.mask.up_sample.res{{1,2}}_1"
                ),
            ),
            key=None,
            layout="preactivation",
        ),
        Listing(
            (
                *_CAFFE,
                f"{_MASKED}.mask.linear_1.bn.%",
                *_residual(f"{_MASKED}.mask.down.res{{1,2,3}}_{{1,2}}", f"{_MASKED}.mask.up.res{{1,2}}_1"),
                "{pre_res,post_res_4}_{1,2,3}.branch2.conv1_1x1.bn.%",
            ),
            key=None,
            layout="resnext",
        ),
    ),
    "sparsifiner": (
        Listing(
            (
                "{cls_token,pos_embed}",
                "patch_embed.proj.@",
                f"blocks.*.{_LAYERS}",
                "blocks.*.attn.mask_predictor.{proj_n,proj_back_n}",
                "blocks.*.attn.mask_predictor.{proj_c_q,proj_c_k}.@",
                "{norm,head}.@",
            )
        ),
    ),
    "spectformer": (
        Listing(
            (
                *_GFNET,
                "patch_embed.proj.@",
                f"blocks.*.{_LAYERS}",
                "blocks.*.filter.complex_weight spectrum",
            )
        ),
    ),
    "spectformer_h": (
        Listing(
            (
                "patch_embed1.conv.{0,3,6}.weight",
                "patch_embed1.conv.{1,4,7}.%",
                "patch_embed#.{proj,norm}.@",
                "{block#.*,post_network.0}.{norm1,norm2,mlp.fc1,mlp.fc2,attn.q,attn.kv,attn.proj}.@",
                "block#.*.mlp.dwconv.dwconv.@",
                "block#.*.attn.complex_weight spectrum",
                "{norm#,head,aux_head}.@",
            ),
            key="state_dict",
        ),
    ),
    "swin": (Listing(_SWIN),),
    "tap_rvt": (
        Listing(
            (
                "{patch_embed.proj.0,patch_embed.proj.3,pools.#.conv,norm,head}.@",
                "patch_embed.proj.1.%",
                "transformers.#.blocks.*.{norm1,norm2,attn.qkv,attn.proj,mlp.fc1,mlp.dwconv,mlp.fc2}.@",
                "transformers.#.blocks.*.{mlp.bn1,mlp.bn2,mlp.bn3,dilation_predictor.proj.1}.%",
                "transformers.#.blocks.*.dilation_predictor.proj.{0,2}.weight",
                "transformers.#.blocks.*.attn.att_mask",
            )
        ),
    ),
    "van": (
        Listing(
            (
                "patch_embed#.proj.@",
                "patch_embed#.norm.%",
                "block#.*.{norm1,norm2}.%",
                *_pointwise("block#.*.{attn.proj_1,attn.proj_2,attn.spatial_gating_unit.conv1,mlp.fc1,mlp.fc2}"),
                "block#.*.{attn.spatial_gating_unit.conv0,attn.spatial_gating_unit.conv_spatial,mlp.dwconv.dwconv}.@",
                "block#.*.{layer_scale_1,layer_scale_2}",
                "norm#.@",
                "head.@",
            ),
            key="state_dict",
        ),
    ),
    "yolov12": (
        Listing(
            (
                *_yolo("model.{0,1,3,5,7}"),
                *_yolo("model.{2,4,6,8}.{cv1,cv2}"),
                *_yolo("model.{2,4}.m.*.{cv1,cv2,cv3,m.0.cv1,m.0.cv2,m.1.cv1,m.1.cv2}"),
                *_yolo("model.{6,8}.m.*.{0,1}.{attn.qk,attn.v,attn.pe,attn.proj,mlp.0,mlp.1}"),
                "model.{6,8}.gamma",
                *_yolo("model.9.conv"),
                "model.9.linear.@",
            ),
            key=None,
        ),
    ),
    "zoo_davit": (
        Listing(
            (
                "patch_embeds.#.{proj,norm}.@",
                f"main_blocks.#.*.{{0,1}}.{_LAYERS}",
                "main_blocks.#.*.{0,1}.cpe.{0,1}.proj.@",
                "{norms,head}.@",
            ),
            key="state_dict",
        ),
    ),
    "zoo_mambaout": (
        Listing(
            (
                "downsample_layers.0.{conv1,conv2,norm1,norm2}.@",
                "downsample_layers.{1,2,3}.{conv,norm}.@",
                "stages.#.*.{norm,conv,fc2}.@",
                "stages.#.*.fc1.@ *2",
                "{norm,head.norm,head.fc1,head.fc2}.@",
            ),
            key=None,
        ),
    ),
    "zoo_shvit": (
        Listing(
            (
                "patch_embed.{0,2,4,6}.c.weight",
                "patch_embed.{0,2,4,6}.bn.%",
                "blocks{1,2,3}.*.{conv.m,ffn.m.pw1,ffn.m.pw2,mixer.m.qkv,mixer.m.proj.1}.c.weight",
                "blocks{1,2,3}.*.{conv.m,ffn.m.pw1,ffn.m.pw2,mixer.m.qkv,mixer.m.proj.1}.bn.%",
                "blocks{1,2,3}.*.mixer.m.pre_norm.@",
                "blocks{2,3}.{0.0.m,0.1.m.pw1,0.1.m.pw2,1.conv1,1.conv2,1.conv3,2.0.m,2.1.m.pw1,2.1.m.pw2}.c.weight",
                "blocks{2,3}.{0.0.m,0.1.m.pw1,0.1.m.pw2,1.conv1,1.conv2,1.conv3,2.0.m,2.1.m.pw1,2.1.m.pw2}.bn.%",
                "blocks{2,3}.1.se.{fc1,fc2}.@",
                "head.bn.%",
                "head.l.@",
            )
        ),
    ),
    "zoo_swiftformer": (
        Listing(
            (
                "patch_embed.{0,3}.@",
                "patch_embed.{1,4}.%",
                "network.{0,2,4,6}.*.{dwconv,local_representation.dwconv}.@",
                "network.{0,2,4,6}.*.{norm,local_representation.norm,linear.norm1}.%",
                *_pointwise("network.{0,2,4,6}.*.{pwconv1,pwconv2,linear.fc1,linear.fc2}"),
                *_pointwise("network.{0,2,4,6}.*.local_representation.{pwconv1,pwconv2}"),
                "network.{0,2,4,6}.*.{layer_scale,layer_scale_1,layer_scale_2,local_representation.layer_scale} .11",
                "network.{0,2,4,6}.*.attn.w_g",
                "network.{0,2,4,6}.*.attn.{to_query,to_key,Proj,final}.@",
                "network.{1,3,5}.proj.@",
                "network.{1,3,5}.norm.%",
                "norm.%",
                "{head,dist_head}.@",
            )
        ),
    ),
    "zoo_twins": (
        Listing(
            (
                "patch_embeds.#.{proj,norm}.@",
                "pos_block.#.proj.0.@",
                "blocks.#.*.{norm1,norm2,mlp.fc1,mlp.fc2}.@",
                "blocks.#.*.attn.{qkv,q,kv,proj,sr,norm}.@",
                "{norm,head}.@",
            )
        ),
    ),
}
