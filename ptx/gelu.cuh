// GELU in the exact form of erf, and its slope: one set of constants for the way there and back.
#pragma once

#include "common.cuh"

// Phi(x), the standard normal distribution.
DEVICE float normal_distribution(float x) {
    constexpr float SQRT_HALF = 0.70710678118654752f;
    return 0.5f * (1.0f + erff(x * SQRT_HALF));
}

DEVICE float gelu(float x) { return x * normal_distribution(x); }

// d gelu / dx = Phi(x) + x phi(x), with the density phi(x) = exp(-x^2 / 2) / sqrt(2 pi).
DEVICE float gelu_slope(float x) {
    constexpr float HALF_LOG2_E = 0.72134752044448170f, HEIGHT = 0.39894228040143268f;
    return normal_distribution(x) + x * (HEIGHT * ex2_approx(-HALF_LOG2_E * x * x));
}
