/* LADSPA plugin: one channel, at the host's rate and in its blocks, with the weights compiled in. */
#include <ladspa.h>
#include <math.h>
#include <stdlib.h>

#include "live.h"

extern const unsigned int sase_weights[];
extern const unsigned long sase_weights_size;

enum { INPUT, OUTPUT, LIMIT, LATENCY, NUM_PORTS };

static const float NO_LIMIT_DB = 100.0f; /* the largest value of the control */

typedef struct {
    void *memory;
    sase_live *live;
    LADSPA_Data *ports[NUM_PORTS];
} instance;

static LADSPA_Handle instantiate(const LADSPA_Descriptor *descriptor, unsigned long rate)
{
    instance *new = calloc(1, sizeof *new);
    int host_rate = rate < 1000000 ? (int)rate : 0;
    size_t size = sase_live_size(sase_weights, sase_weights_size, host_rate);
    (void)descriptor;
    if (new && size && (new->memory = malloc(size))
        && sase_live_init(new->memory, size, sase_weights, sase_weights_size, host_rate, &new->live) == SASE_OK)
        return new;
    if (new)
        free(new->memory);
    free(new);
    return NULL;
}

static void connect_port(LADSPA_Handle handle, unsigned long port, LADSPA_Data *data)
{
    ((instance *)handle)->ports[port] = data;
}

static void activate(LADSPA_Handle handle) { sase_live_reset(((instance *)handle)->live); }

/* The attenuation limit as a factor; values that are NaN or beyond the control's range count as its ends. */
static float factor(float limit_db)
{
    return !(limit_db < NO_LIMIT_DB) ? 0.0f : limit_db <= 0.0f ? 1.0f : powf(10.0f, -limit_db / 20.0f);
}

static void run(LADSPA_Handle handle, unsigned long count)
{
    instance *self = handle;
    float limit = self->ports[LIMIT] ? factor(*self->ports[LIMIT]) : 0.0f;
    if (self->ports[LATENCY])
        *self->ports[LATENCY] = (float)sase_live_delay(self->live);
    sase_live_process(self->live, self->ports[INPUT], self->ports[OUTPUT], count, limit);
}

static void cleanup(LADSPA_Handle handle)
{
    free(((instance *)handle)->memory);
    free(handle);
}

static const LADSPA_PortDescriptor PORTS[NUM_PORTS] = {
    LADSPA_PORT_AUDIO | LADSPA_PORT_INPUT, LADSPA_PORT_AUDIO | LADSPA_PORT_OUTPUT,
    LADSPA_PORT_CONTROL | LADSPA_PORT_INPUT, LADSPA_PORT_CONTROL | LADSPA_PORT_OUTPUT};

static const char *const NAMES[NUM_PORTS] = {"Input", "Output", "Attenuation Limit (dB)", "latency"};

static const LADSPA_PortRangeHint HINTS[NUM_PORTS] = {
    {0, 0, 0},
    {0, 0, 0},
    {LADSPA_HINT_BOUNDED_BELOW | LADSPA_HINT_BOUNDED_ABOVE | LADSPA_HINT_DEFAULT_MAXIMUM, 0.0f, 100.0f},
    {LADSPA_HINT_INTEGER, 0, 0}};

static const LADSPA_Descriptor DESCRIPTOR = {
    .UniqueID = 0x5a5e01,
    .Label = "sase",
    .Properties = LADSPA_PROPERTY_HARD_RT_CAPABLE,
    .Name = "SASE speech enhancement",
    .Maker = "SASE",
    .Copyright = "Apache-2.0",
    .PortCount = NUM_PORTS,
    .PortDescriptors = PORTS,
    .PortNames = NAMES,
    .PortRangeHints = HINTS,
    .instantiate = instantiate,
    .connect_port = connect_port,
    .activate = activate,
    .run = run,
    .cleanup = cleanup,
};

__attribute__((visibility("default"))) const LADSPA_Descriptor *ladspa_descriptor(unsigned long index) { return index ? NULL : &DESCRIPTOR; }
