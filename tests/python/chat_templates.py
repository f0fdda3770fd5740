"""Chat templates written after the shapes of published ones: what they do with roles, spaces, dates, tools and thoughts."""

SYSTEM_IN_FRONT = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set system_message = messages[0]['content'] -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
"""

TEMPLATES = {
    # A default system message where none is given.
    "chatml_default": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a small model.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    # Dates, and a system message that is always there; tools given as none.
    "dates": """{{- bos_token }}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "inst_sys": SYSTEM_IN_FRONT
    + """\
{%- for message in loop_messages -%}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if loop.index0 == 0 and system_message is defined %}
{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
{% else %}{% set content = message['content'] %}{% endif %}
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}""",
    # The system message goes into the newest user message.
    "inst_last": "{%- if messages[0][\"role\"] == \"system\" %}{%- set system_message = messages[0][\"content\"] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}"
    "{%- set ns = namespace(turns=0) %}{{- bos_token }}"
    "{%- for message in loop_messages %}{%- if message.role == 'user' %}{%- set ns.turns = ns.turns + 1 %}"
    "{%- if loop.last and system_message is defined %}{{- '[INST] ' ~ system_message ~ '\\n\\n' ~ message.content ~ '[/INST]' }}"
    "{%- else %}{{- '[INST] ' ~ message.content ~ '[/INST]' }}{%- endif %}"
    "{%- elif message.role == 'assistant' %}{{- ' ' ~ message.content ~ eos_token }}"
    "{%- else %}{{- raise_exception('Only user and assistant roles are supported, not ' ~ message.role) }}{%- endif %}"
    "{%- endfor %}",
    "angle_roles": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    # Roles renamed, the system message refused.
    "renamed": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    # Thoughts of former turns are left out; macros, filters and tests.
    "thoughts": """{%- macro turn(role, content) -%}
<{{ role | upper }}>{{ content }}
{% endmacro -%}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endfor -%}
{%- for m in messages -%}
    {%- if m.role == 'assistant' and '</think>' in m.content -%}
        {{- turn(m.role, m.content.split('</think>')[-1].lstrip('\\n')) -}}
    {%- elif m.content is string and m.content | length > 0 -%}
        {{- turn(m['role'], m.content) -}}
    {%- endif -%}
{%- endfor -%}
{{- ns.last }}{% if enable_thinking is defined and enable_thinking is false %}no{% endif %}
{%- if add_generation_prompt %}{{ '<ASSISTANT>' }}{% endif %}
""",
    "plain": "{% for message in messages %}{{ message.role | title }}: {{ message.content | replace('\n', ' ') }}{{ '\n' if not loop.last }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\nAssistant:' }}{% endif %}",
}

CONVERSATIONS = {
    "question": [{"role": "user", "content": "Who are you?"}],
    "spaces": [{"role": "user", "content": "  Who?\n\n "}, {"role": "assistant", "content": " Me. "}, {"role": "user", "content": "\tWhy?"}],
    "system": [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi"}],
    "longer": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nMe."},
               {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And \u00e9\u6771\U0001f600?"}],
    "of_jinja": [{"role": "user", "content": "{{ messages }} {% if %} {# no #} 'a' \"b\" \\n <b> & {"}],
    "no_user": [{"role": "system", "content": "Be brief."}],
    "twice": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "empty": [{"role": "user", "content": ""}],
}  # fmt: skip
