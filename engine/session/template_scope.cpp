#include "session/template_scope.h"

#include <utility>

#include "error.h"

namespace livekv {

namespace {

thread_local std::shared_ptr<template_scope> on_this_thread;

}  // namespace

template_scope::template_scope(std::shared_ptr<const template_scope> outer) : outer_(std::move(outer)) {}

const jinja::value * template_scope::find(const std::string & name) const {
    for (const template_scope * scope = this; scope; scope = scope->outer_.get()) {
        const auto found = scope->names_.find(name);
        if (found != scope->names_.end()) {
            return &found->second;
        }
    }
    return nullptr;
}

const std::shared_ptr<template_scope> & template_scope::running() {
    LIVEKV_ASSERT(on_this_thread);
    return on_this_thread;
}

entered_scope::entered_scope(std::shared_ptr<const template_scope> outer) : before_(std::move(on_this_thread)) {
    on_this_thread = std::make_shared<template_scope>(std::move(outer));
}

entered_scope::~entered_scope() {
    on_this_thread = std::move(before_);
}

}  // namespace livekv
