// livekv-embed MODEL KV_FILE: the example of the public header, as a program that includes nothing else of ours.

#include <iostream>

#include "livekv.h"

namespace {

void example(const std::string & model_path, const std::string & kv_path) {
    const auto m = livekv::model::load(model_path);
    const auto shared = std::make_shared<livekv::engine>(m, /*n_threads=*/1);
    livekv::session_params params;
    params.n_ctx = 1024;
    params.kv = livekv::parse_kv_spec("small:chunk-size=64");
    livekv::session first(shared, params);
    first.prefill(m->vocab.encode("Once upon a time", /*add_special=*/true, /*parse_special=*/false));
    first.save(kv_path);

    livekv::generate_params how;
    how.n_predict = 40;
    how.sampling.temperature = 0.0;
    livekv::generate_callbacks callbacks;
    callbacks.on_text = [](std::string_view piece) { return bool(std::cout << piece); };
    livekv::generate(first, /*prompt=*/{}, how, callbacks);

    livekv::session second(shared, params);
    second.load(kv_path);
    how.n_predict = 8;
    livekv::generation one(first, m->vocab.encode(" The end.", false, false), how);
    livekv::generation two(second, m->vocab.encode(" there was", false, false), how);
    livekv::generation * const both[] = {&one, &two};
    std::string texts[2];
    while (!one.ended() && !two.ended()) {  // a token of each, in one pass of the model
        const std::vector<std::string> pieces = livekv::step(*shared, both);
        texts[0] += pieces[0];
        texts[1] += pieces[1];
    }
    std::cout << "\n1:" << texts[0] << "\n2:" << texts[1];
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc != 3) {
        std::cerr << "usage: livekv-embed MODEL KV_FILE\n";
        return 2;
    }
    try {
        example(argv[1], argv[2]);
        std::cout << std::endl;
    } catch (const livekv::error & problem) {
        std::cerr << "livekv-embed: " << problem.what() << "\n";
        return 1;
    }
}
