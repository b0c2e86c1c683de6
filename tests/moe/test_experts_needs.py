"""What only experts backends declare: activations, features of the layer, routing."""

from moe.experts_needs import unnamed_option
from moe.spec import ANY, LayerSpec, Needs, experts_refusal
from tests.moe.test_needs import CHIP, layer_spec


def test_an_activation_that_a_row_does_not_name_is_not_supported():
    sizes = {"m": 1, "hidden": 8, "intermediate": 8, "num_experts": 2, "top_k": 1}
    layer_spec = LayerSpec(**sizes, activation="gelu_tanh")
    reason = experts_refusal(Needs(), layer_spec, CHIP)
    assert (reason.code, reason.text) == (
        "activation_unsupported",
        "computes the activation silu, not gelu_tanh",
    )
    assert experts_refusal(Needs(), LayerSpec(**sizes), CHIP) is None
    assert experts_refusal(Needs(activation_functions=ANY), layer_spec, CHIP) is None


def test_a_feature_of_the_layer_that_a_row_does_not_name_is_not_supported():
    biased = layer_spec(expert_bias=True)
    reason = experts_refusal(Needs(), biased, CHIP)
    assert (reason.code, reason.text) == (
        "expert_bias_unsupported",
        "does not name 'expert_bias' in its layer_features",
    )
    named = Needs(layer_features=frozenset({"expert_bias"}))
    assert experts_refusal(named, biased, CHIP) is None
    assert experts_refusal(Needs(layer_features=ANY), biased, CHIP) is None


def test_a_backend_that_routes_takes_the_routers_and_options_that_it_names():
    scaled = layer_spec(router="sigmoid", router_scale=2.0)
    assert experts_refusal(Needs(), scaled, CHIP) is None, "routing is not its job"
    softmax = Needs(routers=frozenset({"softmax"}))
    reason = experts_refusal(softmax, scaled, CHIP)
    assert (reason.code, reason.text) == ("router_unsupported", "routes by softmax, not sigmoid")
    reason = experts_refusal(Needs(routers=ANY), scaled, CHIP)
    assert reason.code == "routing_option_unsupported"
    assert "'scale'" in reason.text
    named = Needs(routers=ANY, routing_options=frozenset({"scale"}))
    assert experts_refusal(named, scaled, CHIP) is None
    need = unnamed_option("scale")
    assert "router_scale" in need.reads
    assert need.refuse(layer_spec()) is None
