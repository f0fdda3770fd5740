#pragma once

#include "engine/engine.h"
#include "engine/model.h"
#include "error.h"
#include "policy/kv_options.h"
#include "policy/kv_policies.h"
#include "policy/kv_spec.h"
#include "session/fidelity.h"
#include "session/generate.h"
#include "session/sampler.h"
#include "session/session.h"
