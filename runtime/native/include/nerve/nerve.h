/* NERVE in C: a bundle and some words in, the pixels of a frame in, a label for each pixel out.
 *
 *     nerve_params params;
 *     nerve_segmenter *segmenter;
 *     nerve_params_init(&params, sizeof params);
 *     params.onnxruntime = "/opt/onnxruntime/lib/libonnxruntime.so.1.23.0";
 *     if (nerve_open("bundles/tiny", &params, &segmenter) || nerve_set_classes(segmenter, "ladybug; grass", NULL)) {
 *         fprintf(stderr, "%s\n", nerve_last_error());
 *         return 1;
 *     }
 *     nerve_frame frame = {sizeof frame, pixels, height, width, 3 * width, NERVE_RGB, NAN, NULL};
 *     nerve_result result = {sizeof result, labels, labels_bytes, NULL, 0, 0, 0, 0};
 *     if (nerve_segment(segmenter, &frame, &result))
 *         fprintf(stderr, "%s\n", nerve_last_error());
 *     else if (result.valid)
 *         printf("%s\n", nerve_class_name(segmenter, labels[0]));
 *     nerve_close(segmenter);
 *
 * Strings are UTF-8 and end with a zero byte. Every pointer given to a function stays the caller's and is read or written
 * during the call only. Every function that can fail returns a nerve_code; the text is in nerve_last_error().
 * Threads: a segmenter is used by one thread at a time, except for nerve_stop; different segmenters, also those that share
 * graphs, may be used by different threads at once.
 */
#ifndef NERVE_NERVE_H
#define NERVE_NERVE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define NERVE_API __attribute__((visibility("default")))
#else
#define NERVE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What became of a call; the numbers are the exit codes of nerve-segment. */
typedef enum nerve_code {
    NERVE_OK = 0,
    NERVE_INTERNAL = 1,      /* a mistake in this library; please report it */
    NERVE_USAGE = 2,         /* an argument makes no sense */
    NERVE_BUNDLE = 3,        /* the bundle, or a file in it, is not what its manifest says */
    NERVE_COMPATIBILITY = 4, /* this machine or its ONNX Runtime cannot run what was asked for */
    NERVE_RESOURCE = 6,      /* memory, disk space or permissions are missing */
    NERVE_NUMERIC = 7        /* numbers came out that cannot be right */
} nerve_code;

/* What runs the graphs. Every node runs there, or nerve_open fails. */
typedef enum nerve_provider { NERVE_CPU = 0, NERVE_CUDA = 1, NERVE_TENSORRT = 2, NERVE_TENSORRT_NATIVE = 3 } nerve_provider;

/* How frames between keyframes go on; see docs/video.md. */
typedef enum nerve_between { NERVE_FOLLOW = 0, NERVE_WARM = 1, NERVE_EXACT = 2, NERVE_HOLD = 3 } nerve_between;

/* How pixels get the scores of the tokens around them: as the bundle says, by distance, by the frame's colours too. */
typedef enum nerve_readout { NERVE_READOUT_DEFAULT = 0, NERVE_BILINEAR = 1, NERVE_GUIDED = 2 } nerve_readout;

/* Order of a pixel's bytes. The wrong one is no error, only wrong labels; OpenCV gives BGR. */
typedef enum nerve_pixel_format { NERVE_RGB = 0, NERVE_BGR = 1 } nerve_pixel_format;

/* A bundle's opened graphs, a class list, and what one video needs from frame to frame. */
typedef struct nerve_segmenter nerve_segmenter;

/* Options of nerve_open. Later versions add fields at the end; `struct_size` says which ones the caller knows. */
typedef struct nerve_params {
    size_t struct_size;
    const char *onnxruntime;  /* path of the file libonnxruntime.so*; NULL or "": "libonnxruntime.so.1", found as the system
                                 finds libraries */
    const char *engine_cache; /* folder for the engines of NERVE_TENSORRT; NULL: none, each start compiles anew */
    void (*on_warning)(void *user, const char *message); /* in the thread that sets classes; NULL: warnings are dropped */
    void *user;               /* given to on_warning */
    int32_t provider;         /* nerve_provider */
    int32_t device;           /* number of the GPU */
    int32_t threads;          /* of one run on a processor; 0: the library chooses */
    int32_t spinning;         /* 1: idle threads spin, faster on cores of their own */
    int32_t strict;           /* 1: refuse what is otherwise a warning */
    int32_t readout;          /* nerve_readout */
    int32_t between;          /* nerve_between */
    int32_t keyframe_every;   /* attention is never older than so many frames; 1: each frame is a keyframe */
    int32_t scores_every;     /* CLIP runs every so many frames; 1: on each */
    double longest_s;         /* attention is never older than so many seconds of the video */
    double smoothing;         /* share of the scores of the frame before, 0 to below 1 */
    double change;            /* a keyframe is due when less than this share of the keyframe is still seen; 0: off */
    double cut;               /* all is forgotten when less than this share of the frame before is seen; 0: off */
    double tau;               /* constants of the method; NAN: the bundle's */
    double alpha;
    double beta;
    double head_temperature;
    double threshold;         /* probability below which a pixel becomes background; needs background words */
} nerve_params;

/* Sizes that a bundle fixes. */
typedef struct nerve_info {
    size_t struct_size;
    int32_t working_height, working_width; /* to which every frame is brought */
    int32_t motion_height, motion_width;   /* at which motion is measured: nerve_grey and nerve_frame.flow */
    int32_t max_classes;
    int32_t random_weights; /* 1: labels mean nothing */
} nerve_info;

/* One picture. */
typedef struct nerve_frame {
    size_t struct_size;
    const uint8_t *pixels; /* (height, width, 3) */
    int32_t height, width;
    ptrdiff_t stride;      /* bytes from a row to the next */
    int32_t format;        /* nerve_pixel_format */
    double time_s;         /* presentation time; NAN: none */
    const float *flow;     /* (motion_height, motion_width, 2): where each pixel was in the frame before, as (x, y) to add to
                              its place, in pixels of that size. NULL: not known, which is refused (NERVE_USAGE) after the
                              first frame where between is NERVE_FOLLOW or smoothing, change or cut are above 0. What is not
                              finite or leads far beyond the picture counts as not found. */
} nerve_frame;

/* Labels of one frame, in the frame's own size. The first three fields are set by the caller. */
typedef struct nerve_result {
    size_t struct_size;
    void *labels;          /* (height, width), nerve_label_bytes() each: uint8_t up to 254 classes, uint16_t beyond; the
                              greatest number means no label */
    size_t labels_bytes;   /* room in `labels` */
    uint8_t *confidence;   /* (height, width): probability of the label, 0 to 255 for 0 to 1; NULL: not wanted */
    int32_t valid;         /* 0: the scores were not finite, no pixel has a label */
    int32_t keyframe;      /* 1: attention was computed for this very frame */
    int32_t affinity_age;  /* frames since the keyframe whose attention was used */
    double total_ms;
} nerve_result;

/* The library's version, such as "0.1.0". */
NERVE_API const char *nerve_version(void);

/* Why the last call of this thread failed, in one line; valid until the thread's next call. Never NULL. */
NERVE_API const char *nerve_last_error(void);

/* Fill in the defaults: processor, each frame by itself. `struct_size` is sizeof(nerve_params). */
NERVE_API void nerve_params_init(nerve_params *params, size_t struct_size);

/* For video, after nerve_params_init: a keyframe every 10 frames and when the picture changes, following its motion between.
 * Every frame but the first needs nerve_frame.flow then. */
NERVE_API void nerve_params_video(nerve_params *params);

/* Verify the bundle, a folder, and open its graphs. On success *segmenter is the caller's, to be given to nerve_close.
 * Files are compared with the manifest's hashes; what a graph may hold is not looked at, as Python does: ONNX Runtime runs
 * what is in there, so take bundles from whom you trust. The first call of a process sets ORT_DISABLE_TELEMETRY in the
 * environment, where it is not set already. */
NERVE_API nerve_code nerve_open(const char *bundle, const nerve_params *params, nerve_segmenter **segmenter);

/* Another segmenter for another video, with the same graphs and the classes of now. Closed by itself, in any order. */
NERVE_API nerve_code nerve_new_video(nerve_segmenter *segmenter, nerve_segmenter **video);

/* Use these classes from the next frame on: "zebra; soccer ball, football; grass", synonyms after commas. `background`:
 * words for everything else, which become class 0; NULL or "" for none. After an error the old classes stay. */
NERVE_API nerve_code nerve_set_classes(nerve_segmenter *segmenter, const char *classes, const char *background);

/* The same from a vocabulary file, written by nerve-vocab for this bundle; needs neither tokenizer nor text graph. */
NERVE_API nerve_code nerve_set_vocabulary(nerve_segmenter *segmenter, const char *path);

/* How many classes there are, background included; 0 before classes are set. */
NERVE_API int32_t nerve_class_count(const nerve_segmenter *segmenter);

/* The name of a label, NULL for none; the library's, valid until the classes change. */
NERVE_API const char *nerve_class_name(const nerve_segmenter *segmenter, int32_t label);

/* Bytes of one label: 1 up to 254 classes, 2 beyond. */
NERVE_API size_t nerve_label_bytes(const nerve_segmenter *segmenter);

/* What runs the graphs: library, version, provider, threads; the library's, valid as long as the segmenter. */
NERVE_API const char *nerve_description(const nerve_segmenter *segmenter);

/* Fill in the sizes; `info->struct_size` is sizeof(nerve_info). */
NERVE_API nerve_code nerve_get_info(const nerve_segmenter *segmenter, nerve_info *info);

/* The frame as motion has to be measured on: grey, (motion_height, motion_width). For optical flow of the caller's own. */
NERVE_API nerve_code nerve_grey(const nerve_segmenter *segmenter, const nerve_frame *frame, uint8_t *grey);

/* Label every pixel of the next frame. After an error the next frame is computed from nothing. */
NERVE_API nerve_code nerve_segment(nerve_segmenter *segmenter, const nerve_frame *frame, nerve_result *result);

/* Forget the frames before, as after a cut. */
NERVE_API void nerve_reset(nerve_segmenter *segmenter);

/* From any thread: end the run under way with an error soon. The segmenter, and those that share its graphs, can only be
 * closed then. */
NERVE_API void nerve_stop(nerve_segmenter *segmenter);

/* Free a segmenter; NULL is fine. No other thread may be using it. */
NERVE_API void nerve_close(nerve_segmenter *segmenter);

#ifdef __cplusplus
}
#endif
#endif
