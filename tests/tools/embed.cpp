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
    const std::vector<int32_t> words = m->vocab.encode(" there was", false, false);
    const std::vector<int32_t> end = m->vocab.encode(" The end.", false, false);
    const livekv::session::share batch[] = {{.who = &first, .tokens = end, .n_outputs = 1},
                                            {.who = &second, .tokens = words, .n_outputs = 1}};
    livekv::session::pass(*shared, batch);
    livekv::sampler pick(how.sampling);
    for (livekv::session * s : {&first, &second}) {
        std::cout << "\n" << s->n_tokens() << " tokens, next " << pick.next(s->last_logits());
    }
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
