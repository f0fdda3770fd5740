#include <cstring>

#include "error.h"
#include "refused_models.h"

using namespace refused_models;

namespace {

void write_bytes(const std::string & path, const std::string & bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace

TEST(reads_shape_and_tensors_of_a_model) {
    const temporary_file path(".gguf");
    write_tiny_model({}, path.path());
    const gguf_file file(path.path());
    const hparams hp = hparams::read(file);
    CHECK_EQ(hp.n_layer, 2);
    CHECK_EQ(hp.n_embd_q(1), 128);
    CHECK_EQ(hp.n_embd_kv(1), 64);
    CHECK_EQ(hp.n_vocab, 259);
    CHECK_EQ(hp.kv_f16_bytes_per_token(), 2 * 2 * 64 * 2);
    const weights w(file, hp, 0, weight_form::stored);
    CHECK_EQ(w.layers.size(), size_t(2));
    CHECK(w.output != w.token_embd);
    const ggml_tensor * t = file.get_tensor("output_norm.weight", {64});
    float first = 0.0f;
    std::memcpy(&first, file.tensor_data(t), sizeof(first));
    CHECK_EQ(first, 1.0f);
}

TEST(every_truncation_is_an_error_and_none_a_crash) {
    const temporary_file whole(".gguf");
    write_tiny_model({}, whole.path());
    const std::string bytes = check::read_file(whole.path());
    const temporary_file cut(".gguf");
    // Every length of the header, then steps through metadata, tensor list and data.
    for (size_t n = 1; n < bytes.size(); n += n < 64 ? 1 : n < 12000 ? 97 : 9001) {
        write_bytes(cut.path(), bytes.substr(0, n));
        CHECK_ERROR(load(cut.path()), cut.path());
    }
}

TEST(files_that_are_no_model_are_refused) {
    const temporary_file file(".gguf");
    CHECK_ERROR(load(file.path()), "No such file");
    write_bytes(file.path(), "");
    CHECK_ERROR(load(file.path()), "is empty");
    write_bytes(file.path(), "hello, this is not a model at all");
    CHECK_ERROR(load(file.path()), "not a GGUF file");
    CHECK_ERROR(load("/"), "is not a file but a folder");
    CHECK_ERROR(load("/dev/null"), "is not a file");
}

TEST(corrupted_header_fields_are_refused) {
    const temporary_file whole(".gguf");
    write_tiny_model({}, whole.path());
    const std::string bytes = check::read_file(whole.path());
    const temporary_file bad(".gguf");
    // Bytes 4..24: version, number of tensors, number of keys.
    for (size_t at = 4; at < 24; ++at) {
        std::string copy = bytes;
        copy[at] = static_cast<char>(0xff);
        write_bytes(bad.path(), copy);
        CHECK_ERROR(load(bad.path()), bad.path());
    }
}

TEST(flipped_bytes_are_errors_or_harmless_and_never_crash) {
    const temporary_file whole(".gguf");
    write_tiny_model({}, whole.path());
    const std::string bytes = check::read_file(whole.path());
    const temporary_file bad(".gguf");
    std::mt19937 rng(11);
    int n_refused = 0;
    for (int i = 0; i < 400; ++i) {
        std::string copy = bytes;
        // The header, metadata and tensor list end before byte 16,000; the data behind them is any bytes.
        for (int flips = 1 + i % 3; flips > 0; --flips) {
            copy[rng() % 16000] = static_cast<char>(rng());
        }
        write_bytes(bad.path(), copy);
        try {
            load(bad.path());
        } catch (const error &) {
            ++n_refused;
        }
    }
    CHECK(n_refused > 50);
}

TEST(every_tensor_is_used_or_refused_by_name) {
    for (const char * name :
         {"blk.0.attn_q_norm.weight", "blk.1.ffn_down.scale", "output.bias", "rope_factors_long.weight",
          "blk.2.attn_norm.weight", "blk.0.ffn_gate_exps.weight", "anything"}) {
        refuses([&](tiny_spec & s) { s.extra_tensors = {name}; }, "1 tensor has no place");
        refuses([&](tiny_spec & s) { s.extra_tensors = {name}; }, std::string("'") + name + "'");
    }
    refuses([](tiny_spec & s) { s.extra_tensors = {"a", "b", "c", "d"}; }, "4 tensors have");
    refuses([](tiny_spec & s) { s.extra_tensors = {"blk.0.ffn_gate.bias"}; }, "[64], expected [96]");
    for (const std::string part :
         {"attn_output.bias", "ffn_down.bias"}) {  // what a layer may do without, one other does
        for (const std::string with : {"0", "1"}) {
            const std::string name = "'blk." + std::string(with == "0" ? "1" : "0") + "." + part + "' is missing";
            refuses([&](tiny_spec & s) { s.extra_tensors = {"blk." + with + "." + part}; }, name);
        }
    }
    tiny_spec spec;
    spec.extra_tensors = {"blk.0.attn_rot_embd.weight", "blk.1.attn_rot_embd", "blk.0.ffn_down.bias",
                          "blk.1.ffn_down.bias"};
    const temporary_file path(".gguf");
    write_tiny_model(spec, path.path());
    const gguf_file file(path.path());
    const weights w(file, hparams::read(file), 0, weight_form::stored);
    CHECK(w.layers[0].b_down != nullptr);
    CHECK(w.layers[1].b_down != nullptr);
    CHECK(w.layers[1].b_up == nullptr);
}

TEST(parts_of_a_split_file_say_which_they_are) {
    for (const bool whole_header : {true, false}) {
        refuses_keys(
            [&](gguf_context * g) {
                gguf_set_val_u16(g, "split.no", 1);
                gguf_set_val_u16(g, "split.count", 3);
                if (!whole_header) {  // as parts after the first are
                    gguf_remove_key(g, "general.architecture");
                }
            },
            "part 2 of 3");
    }
    loads_with([](gguf_context * g) { gguf_set_val_u16(g, "split.count", 1); });
}

TEST(big_endian_files_are_called_so) {
    const temporary_file file(".gguf");
    for (const char version : {1, 2, 3}) {
        write_bytes(file.path(), std::string("GGUF\0\0\0", 7) + version + std::string(64, '\0'));
        CHECK_ERROR(load(file.path()), "big-endian");
    }
}

TEST(misshapen_tensors_are_named_with_both_shapes) {
    refuses([](tiny_spec & s) { s.without_tensor = "blk.1.ffn_up.weight"; }, "'blk.1.ffn_up.weight' is missing");
    refuses([](tiny_spec & s) { s.without_tensor = "token_embd.weight"; }, "token_embd.weight");
    refuses(
        [](tiny_spec & s) {
            s.transposed_tensor = "blk.0.attn_k.weight";
            s.n_head_kv = 4;
            s.n_head = 4;
        },
        "[128, 64], expected [64, 128]");
    refuses([](tiny_spec & s) { s.retyped_tensor = "blk.0.ffn_norm.weight"; }, "has type f16, expected f32");
    for (const char * name : {"blk.1.ffn_down.weight", "token_embd.weight"}) {
        refuses(
            [&](tiny_spec & s) {
                s.retyped_tensor = name;
                s.retyped_to = GGML_TYPE_I32;
            },
            "has type i32, which ggml cannot compute with");
    }
}

TEST(tied_embeddings_serve_as_output) {
    const temporary_file path(".gguf");
    tiny_spec spec;
    spec.tied = true;
    write_tiny_model(spec, path.path());
    const gguf_file file(path.path());
    const weights w(file, hparams::read(file), 0, weight_form::stored);
    CHECK_EQ(std::string(w.output->name), "token_embd.weight");
}

TEST(absurd_precheck_values_do_not_reach_ggml) {
    // An empty key name, and a dimension of zero: ggml's reader aborts on both.
    const auto u32 = [](uint32_t v) { return std::string(reinterpret_cast<char *>(&v), sizeof(v)); };
    const auto u64 = [](uint64_t v) { return std::string(reinterpret_cast<char *>(&v), sizeof(v)); };
    const temporary_file file(".gguf");
    write_bytes(file.path(), "GGUF" + u32(3) + u64(0) + u64(1) + u64(0) + u32(GGUF_TYPE_UINT32) + u32(1));
    CHECK_ERROR(load(file.path()), "has no name");
    write_bytes(file.path(), "GGUF" + u32(3) + u64(1) + u64(0) + u64(1) + "t" + u32(1) + u64(0) + u32(0) + u64(0));
    CHECK_ERROR(load(file.path()), "empty dimension");
    write_bytes(file.path(),
                "GGUF" + u32(3) + u64(0) + u64(1) + u64(17) + "general.alignment" + u32(GGUF_TYPE_FLOAT32) + u32(0));
    CHECK_ERROR(load(file.path()), "must be one uint32");
    // A zero byte in a key hides its rest from C strings, a size near 2^64 wraps, a huge count is quadratic work.
    write_bytes(file.path(), "GGUF" + u32(3) + u64(0) + u64(1) + u64(18) + "general.alignment" + std::string(1, '\0') +
                                 u32(GGUF_TYPE_FLOAT32) + u32(0));
    CHECK_ERROR(load(file.path()), file.path());
    write_bytes(file.path(), "GGUF" + u32(3) + u64(1) + u64(0) + u64(1) + "t" + u32(1) + u64((uint64_t(1) << 62) - 1) +
                                 u32(GGML_TYPE_F32) + u64(0));
    CHECK_ERROR(load(file.path()), file.path());
    write_bytes(file.path(), "GGUF" + u32(3) + u64(0) + u64(uint64_t(1) << 40));
    CHECK_ERROR(load(file.path()), file.path());
}

TEST_MAIN
