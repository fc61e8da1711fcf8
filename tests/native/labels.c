/* Label the pixels of pictures: labels ONNXRUNTIME BUNDLE VOCABULARY FRAME_PPM OUT
 *
 * FRAME_PPM holds one or more binary PPM pictures (P6, 255) of one size, one after another; OUT becomes their labels, one
 * after another, nerve_label_bytes() each. What runs the graphs goes to stdout. The exit code is that of the library. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "nerve/nerve.h"

static const char *what_failed;

static nerve_code refuse(const char *message) {
    what_failed = message;
    return NERVE_USAGE;
}

static const char *reason(void) { return what_failed ? what_failed : nerve_last_error(); }

/* The next picture of the file, to be freed by the caller; NULL where it is no PPM or cut short. */
static uint8_t *next_picture(FILE *file, int32_t *height, int32_t *width) {
    int greatest = 0;
    uint8_t *pixels;
    if (fscanf(file, "P6 %d %d %d", width, height, &greatest) != 3 || greatest != 255 || fgetc(file) == EOF) return NULL;
    if (*height < 1 || *width < 1 || *height > 16384 || *width > 16384) return NULL;
    pixels = malloc((size_t)*height * (size_t)*width * 3);
    if (pixels != NULL && fread(pixels, (size_t)*width * 3, (size_t)*height, file) == (size_t)*height) return pixels;
    free(pixels);
    return NULL;
}

static nerve_code label_picture(nerve_segmenter *segmenter, const uint8_t *pixels, int32_t height, int32_t width, FILE *out) {
    nerve_frame frame = {sizeof frame, NULL, 0, 0, 0, NERVE_RGB, NAN, NULL};
    nerve_result result = {sizeof result, NULL, 0, NULL, 0, 0, 0, 0.0};
    nerve_code code;
    frame.pixels = pixels;
    frame.height = height;
    frame.width = width;
    frame.stride = (ptrdiff_t)3 * width;
    result.labels_bytes = (size_t)height * (size_t)width * nerve_label_bytes(segmenter);
    result.labels = malloc(result.labels_bytes);
    if (result.labels == NULL) return refuse("no memory for the labels");
    code = nerve_segment(segmenter, &frame, &result);
    if (code == NERVE_OK && fwrite(result.labels, 1, result.labels_bytes, out) != result.labels_bytes)
        code = refuse("the labels cannot be written");
    free(result.labels);
    return code;
}

static nerve_code label_all(nerve_segmenter *segmenter, FILE *pictures, FILE *out) {
    int first;
    while ((first = fgetc(pictures)) != EOF) {
        int32_t height, width;
        uint8_t *pixels;
        nerve_code code;
        ungetc(first, pictures);
        if ((pixels = next_picture(pictures, &height, &width)) == NULL) return refuse("the file has a picture that is no binary PPM");
        code = label_picture(segmenter, pixels, height, width, out);
        free(pixels);
        if (code != NERVE_OK) return code;
    }
    return NERVE_OK;
}

static nerve_code run(char **words, nerve_segmenter **segmenter) {
    nerve_params params;
    FILE *pictures, *out;
    nerve_code code;
    nerve_params_init(&params, sizeof params);
    params.onnxruntime = words[1];
    params.threads = 1;
    if ((code = nerve_open(words[2], &params, segmenter)) != NERVE_OK) return code;
    if ((code = nerve_set_vocabulary(*segmenter, words[3])) != NERVE_OK) return code;
    if ((pictures = fopen(words[4], "rb")) == NULL) return refuse("the pictures cannot be read");
    if ((out = fopen(words[5], "wb")) == NULL) {
        fclose(pictures);
        return refuse("the labels cannot be written");
    }
    code = label_all(*segmenter, pictures, out);
    fclose(pictures);
    if (fclose(out) != 0 && code == NERVE_OK) code = refuse("the labels cannot be written");
    if (code == NERVE_OK) printf("%s\n", nerve_description(*segmenter));
    return code;
}

int main(int count, char **words) {
    nerve_segmenter *segmenter = NULL;
    nerve_code code;
    if (count != 6) {
        fprintf(stderr, "usage: labels ONNXRUNTIME BUNDLE VOCABULARY FRAME_PPM OUT\n");
        return NERVE_USAGE;
    }
    code = run(words, &segmenter);
    if (code != NERVE_OK) fprintf(stderr, "error: %s\n", reason());
    nerve_close(segmenter);
    return (int)code;
}
