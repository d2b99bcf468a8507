/* Lines that look alike: a part of json_plan.h.
 *
 * Whoever writes a file of JSON lines writes them by a template: what is between the scalar values
 * (brackets, keys, colons, commas, spaces) is the same in all of them, byte for byte. So the parts
 * of a good line are kept, and where in them the plan's values are. The next line is then compared
 * part by part, and only its scalars are read. One that fits is JSON, for it has the tokens of the
 * line before, with other scalars in the same places; and it has its values at the same pointers,
 * for they depend on keys and brackets alone. One that does not fit is read in the general way, as
 * if nothing had been tried, and its parts are kept next.
 *
 * Two forms are kept, for good answers and errors. Where they part, one takes over from the other,
 * so that nothing is read twice. */

/* A line that fits neither costs more than one that fits saves, so there must be a number of those
 * for each of these; otherwise so many lines are not compared. */
enum { DOUBT = 8, MOST_DOUBT = 4 * DOUBT, REST = 250 };

/* Whether this text is not to be compared. */
static bool rests(struct json_forms *forms) {
    if (forms->rest == 0) return false;
    forms->rest--;
    return true;
}

/* Is this what the text goes on with? The parts have 64 bytes behind them. */
static inline bool is_part(const struct json_reader *reader, const char *part, size_t length) {
    const char *at = reader->at;
    size_t left = (size_t)(reader->end - at);
    if (left < length + WIDTH) return left >= length && memcmp(at, part, length) == 0;
    for (; length > WIDTH; at += WIDTH, part += WIDTH, length -= WIDTH)
        if (same_prefix(at, part) < WIDTH) return false;
    return same_prefix(at, part) >= length;
}

static inline const char *part_begin(const char *text, const struct json_value *values,
                                     size_t part) {
    return part == 0 ? text : values[part - 1].at + values[part - 1].length;
}

/* Reads the text from the beginning of a part on, and gives the values after that and all later
 * parts. Returns the part that the text did not fit in, or after; one more than there are when it
 * has fitted. */
static inline size_t fit(struct json_reader *reader, const struct json_form *form, size_t part,
                         struct json_value *values) {
    for (;; part++) {
        size_t from = form->parts[part], length = form->parts[part + 1] - from;
        if (!is_part(reader, form->bytes + from, length)) return part;
        reader->at += length;
        if (part == form->values) return reader->at == reader->end ? part + 1 : part;
        if (reader->at == reader->end) return part;
        enum json_type type = read_value(reader, &values[part], NEXT_KEY);
        if (type == JSON_ERROR || type > JSON_STRING) return part;
        values[part].type = type;
    }
}

/* Finds what the plan looks for in a text of a form that is known. */
static bool recall(struct json_reader *reader, struct json_plan *plan) {
    struct json_forms *forms = plan->forms;
    const struct json_form *form = &forms->form[forms->last];
    struct json_value values[JSON_FORM_VALUES];
    if (form->found_count == 0) return false;
    size_t part = fit(reader, form, 0, values);
    if (part <= form->values) {
        form = &forms->form[!forms->last];
        if (part < forms->common || form->found_count == 0) return false;
        reader->at = part_begin(reader->text, values, forms->common);
        if (fit(reader, form, forms->common, values) <= form->values) return false;
        forms->last = !forms->last;
    }
    if (forms->doubt > 0) forms->doubt--;
    for (uint32_t i = 0; i < plan->count; i++) plan->nodes[i].found = (struct json_value){0};
    for (size_t i = 0; i < form->found_count; i++) {
        const struct json_form_found *found = &form->found[i];
        struct json_value *value = &plan->nodes[found->node].found;
        if (found->type <= JSON_STRING) {
            *value = values[found->from.part];
        } else {
            const char *at = part_begin(reader->text, values, found->from.part);
            const char *end = part_begin(reader->text, values, found->to.part);
            value->type = found->type;
            value->at = at + found->from.offset;
            value->length = (size_t)(end + found->to.offset - value->at);
        }
    }
    return true;
}

static struct json_place place(const char *text, const struct json_value *values, size_t count,
                               const char *at) {
    size_t part = count;
    while (part_begin(text, values, part) > at) part--;
    return (struct json_place){(uint16_t)part, (uint16_t)(at - part_begin(text, values, part))};
}

static void doubt(struct json_forms *forms) {
    forms->doubt += DOUBT;
    if (forms->doubt <= MOST_DOUBT) return;
    forms->doubt = MOST_DOUBT; /* the next one may make it a rest again */
    forms->rest = REST;
}

/* Keeps the form of a text that the plan has just been used on, unless it is too large. */
static __attribute__((noinline)) void learn(const char *text, size_t length,
                                            const struct json_plan *plan) {
    struct json_forms *forms = plan->forms;
    struct json_form *form = &forms->form[!forms->last];
    struct json_value values[JSON_FORM_VALUES], value;
    struct json_reader reader;
    enum json_type type;
    size_t size = 0, count = 0;
    form->found_count = 0;
    forms->common = 0;
    json_open(&reader, text, length);
    do {
        type = LEVEL(next)(&reader, &value);
        if (type > JSON_STRING) continue;
        const char *from = part_begin(text, values, count), *to = type ? value.at : text + length;
        if ((size_t)(to - from) > JSON_FORM_BYTES - size) return;
        form->parts[count] = (uint16_t)size;
        memcpy(form->bytes + size, from, (size_t)(to - from));
        size += (size_t)(to - from);
        if (type == JSON_ABSENT) break;
        if (count == JSON_FORM_VALUES) return;
        values[count++] = value;
    } while (true);
    form->parts[count + 1] = (uint16_t)size;
    form->values = (uint16_t)count;
    uint16_t found_count = 0;
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct json_value *found = &plan->nodes[i].found;
        if (found->type == JSON_ABSENT) continue;
        if (found_count == JSON_FORM_FOUND) return;
        form->found[found_count++] = (struct json_form_found){
            .node = i,
            .type = found->type,
            .from = place(text, values, count, found->at),
            .to = place(text, values, count, found->at + found->length),
        };
    }
    form->found_count = found_count;
    forms->last = !forms->last;
    const struct json_form *other = &forms->form[!forms->last];
    if (other->found_count == 0) return;
    /* Both have an end, and no more parts after it. */
    size_t most = other->values < count ? other->values : count;
    while (forms->common < most) {
        size_t end = form->parts[forms->common + 1];
        if (end != other->parts[forms->common + 1] || memcmp(form->bytes, other->bytes, end) != 0)
            break;
        forms->common++;
    }
}
