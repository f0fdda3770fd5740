#pragma once

#include <jinja/value.h>

#include <map>
#include <memory>
#include <string>

namespace livekv {

// What the names that a template sets stand for, as in jinja2: the template itself, each turn of a loop, each call of a
// macro and each block that is set, filtered or handed to a macro has a scope of its own, inside that in which it is
// written. {% if %} has none. The engine keeps one table of names, and copies it.
class template_scope {
  public:
    explicit template_scope(std::shared_ptr<const template_scope> outer);

    // The innermost of that name; null where there is none: it is one of those that the template is given, if any.
    const jinja::value * find(const std::string & name) const;
    void set(const std::string & name, const jinja::value & v) { names_[name] = v; }

    // That of what is executed on this thread.
    static const std::shared_ptr<template_scope> & running();

  private:
    std::map<std::string, jinja::value> names_;
    std::shared_ptr<const template_scope> outer_;
};

// A scope inside outer (null: inside none), the running one of this thread as long as this lives.
class entered_scope {
  public:
    explicit entered_scope(std::shared_ptr<const template_scope> outer);
    ~entered_scope();
    entered_scope(const entered_scope &) = delete;
    entered_scope & operator=(const entered_scope &) = delete;

  private:
    std::shared_ptr<template_scope> before_;
};

}  // namespace livekv
